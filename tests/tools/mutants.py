"""Small changes of a Python source; a test should notice each of them."""

import ast
import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
WORDS = {"__repr__", "__str__", "warn"}  # functions that only make text for people
KEY = ("file", "function", "text", "column", "change")
SIMPLE = ast.Expr | ast.Assign | ast.AugAssign | ast.Return | ast.Raise | ast.Break | ast.Continue


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the n-th that `changes` finds there."""

    file: str  # from the top of the checkout
    n: int
    line: int
    first: int  # line of the statement, or of its head if it contains other statements
    last: int
    column: int  # in the text
    function: str  # the function around it, "Llama.logits"; "" outside functions
    text: str  # the source line, without the blanks before it
    change: str  # "end - start -> end + start"

    def key(self) -> tuple[str, ...]:
        """The fields that stay the same when other lines of the file change."""
        return tuple(str(getattr(self, name)) for name in KEY)


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a source."""
    found, tree = [], ast.parse(source)
    inside = _functions(tree)
    for n, (node, (first, last), new, _) in enumerate(changes(tree)):
        line = source.splitlines()[node.lineno - 1]
        column = node.col_offset - (len(line) - len(line.lstrip()))
        where, change = inside.get(first, ""), f"{_short(node)} -> {_short(new)}"
        found.append(Mutant(file, n, node.lineno, first, last, column, where, line.strip(), change))
    return found


def shuffled(found: list[Mutant], seed: int) -> list[Mutant]:
    """In an order that depends on the seed; adding or removing mutants keeps the others' order."""
    return sorted(found, key=lambda m: hashlib.sha256(f"{seed} {m.key()}".encode()).digest())


def _functions(node, name="") -> dict[int, str]:
    """Line of a function's body -> the function's name, with its class before it."""
    found: dict[int, str] = {}
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}".lstrip(".")
        if isinstance(child, ast.FunctionDef):
            found |= dict.fromkeys(range(child.body[0].lineno, child.end_lineno + 1), inner)
        found |= _functions(child, inner)
    return found


def mutated(source: str, n: int) -> ast.Module:
    """The tree of a source after its n-th change."""
    tree = ast.parse(source)
    for k, (*_, apply) in enumerate(changes(tree)):
        if k == n:
            apply()
            return ast.fix_missing_locations(tree)
    raise IndexError(n)


def changes(tree: ast.Module) -> Iterator[tuple[Any, tuple[int, int], Any, Any]]:
    """(node, lines of its statement, its replacement, a function that replaces it)."""
    for parent, name, index, node, lines in _places(tree, (0, 0)):
        for new in _instead(parent, name, node):
            new = ast.copy_location(new, node)

            def apply(parent=parent, name=name, index=index, new=new):
                if index is None:
                    setattr(parent, name, new)
                else:
                    getattr(parent, name)[index] = new

            yield node, lines, new, apply


def _places(node, lines) -> Iterator[tuple[Any, str, int | None, Any, tuple[int, int]]]:
    """(parent, field, index in the field's list, node, lines of the statement) below a node,
    without annotations, docstrings, and the texts of errors and warnings.
    """
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params", "decorator_list", "format_spec"):
            continue
        several = isinstance(value, list)
        for index, child in enumerate(value if several else [value]):
            if not isinstance(child, ast.AST) or _is_words(child):
                continue
            own = _lines(child) if isinstance(child, ast.stmt) else lines
            yield node, name, index if several else None, child, own
            if not isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr):
                yield from _places(child, own)


def _lines(statement) -> tuple[int, int]:
    """First and last line; of the head only, if the statement contains others."""
    body = getattr(statement, "body", None)
    last = max(statement.lineno, body[0].lineno - 1) if body else statement.end_lineno
    return statement.lineno, last


def _is_words(node) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name in WORDS
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    call = node.value if isinstance(node, ast.Expr) else node
    if isinstance(call, ast.Call):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        return name in WORDS or name.endswith(("Error", "Warning"))
    return isinstance(node, ast.Import | ast.ImportFrom)


def _instead(parent, name, node) -> Iterator[ast.AST]:
    """The possible replacements of a node."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[i] = COMPARE[type(op)]()
            yield new
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        new = copy.deepcopy(node)
        new.op = ARITHMETIC[type(node.op)]()
        yield new
    elif isinstance(node, ast.BoolOp):
        new = copy.deepcopy(node)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield copy.deepcopy(node.operand)
    elif isinstance(node, ast.Constant):
        yield from _constants(node.value)
    elif isinstance(node, SIMPLE):
        yield from _statements(node)
    if name == "test" and not isinstance(node, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), copy.deepcopy(node))
    if name == "ifs":  # of a comprehension
        yield ast.Constant(True)


def _constants(value) -> Iterator[ast.AST]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        if value > 0:
            yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 2 if value else 1.0)


def _statements(node) -> Iterator[ast.AST]:
    """The statement removed, if the code after it can still run."""
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise):
        if not isinstance(getattr(node, "value", None), ast.Yield | ast.YieldFrom):
            yield ast.Pass()
    elif isinstance(node, ast.Assign):
        if not isinstance(node.targets[0], ast.Name | ast.Tuple):  # an entry, an attribute
            yield ast.Pass()
    elif isinstance(node, ast.Return):
        if node.value is not None and not _is_constant(node.value, None):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.Continue):
        yield ast.Pass()


def _is_constant(node, value) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _short(node) -> str:
    """A node in one line."""
    text = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return text if len(text) <= 90 else f"{text[:60]} ... {text[-25:]}"
