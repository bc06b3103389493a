"""Which term of a forward does a line of its backward undo? The line's comment names it."""

import ast
import re
import textwrap
from inspect import getsource, signature

CLAUSE = re.compile(r"(\w+) (?:has|=) (.+)")  # `y has s z Bᵀ`, `z = x Aᵀ`
COMMA = re.compile(r"[,;:] (?![^(\[]*[)\]])")  # outside of brackets
SYMBOLS = {"ᵀ": " T ", "Σ": " sum ", "√": " sqrt "}  # in a comment -> in code
MODULES = "np", "math"  # np.exp(s) in code is exp(s) in a comment
LAYOUT = "swapaxes", "reshape", "astype"  # the array that they are called on may be a term


def undone(forward, backward) -> dict[int, list[tuple[int, int, int]]]:
    """Line of backward -> [(line of forward, first column, column after the last), …] it undoes.

    Its comment names it: `# y has s z Bᵀ, z = x Aᵀ` has two clauses. A clause names the widest term
    of forward, on one line, that has exactly its names, functions and transposes (`s z Bᵀ`: s, z,
    B, T), in what is assigned to the name on its left. If backward's first argument is dy, y is
    also what forward returns. A clause that fits no term or two terms is ignored. Lines count from
    0, columns in characters, in the source without its indentation. Empty without a source.
    """
    try:
        there, back = (textwrap.dedent(getsource(function)) for function in (forward, backward))
        made = _made(ast.parse(there), next(iter(signature(backward).parameters), ""))
    except (OSError, TypeError, SyntaxError):
        return {}
    lines, found = there.splitlines(), {}
    for i, line in enumerate(back.splitlines()):
        terms = [_term(made, piece) for piece in COMMA.split(line.partition(" # ")[2])]
        found[i] = [_place(term, lines) for term in terms if term]
    return {i: places for i, places in found.items() if places}


def _made(forward, gradient):
    """Name -> the expressions assigned to it. gradient: the output's, such as dy for y."""
    made: dict[str, list[ast.expr]] = {}
    for node in ast.walk(forward):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        match node:
            case ast.Return(value=ast.Tuple(elts=[out, *_]) | out) if out and gradient[:1] == "d":
                pairs = [(ast.Name(gradient[1:]), out)]
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                pairs = list(zip(names, values))
            case ast.Assign(targets=[ast.Tuple(elts=names)] | names, value=value):
                pairs = [(name, value) for name in names]
            case ast.AugAssign(target=target, value=value):
                pairs = [(target, value)]
        for name, value in pairs:  # o[q0:q1] = … makes o
            made.setdefault(ast.unparse(name).split("[")[0], []).append(value)
    return made


def _term(made, clause):
    """The expression that a clause names; None if it is not a clause, or fits none or two."""
    if not (match := CLAUSE.fullmatch(clause)):
        return None
    text = re.sub("[ᵀΣ√]", lambda symbol: SYMBOLS[symbol[0]], match[2])
    words = sorted(re.findall(r"[^\W\d]\w*", re.sub(r"(\w+)²", r"\1 \1", text)))
    fits = [e for value in made.get(match[1], ()) for e in _widest(value, words)]
    return fits[0] if len(fits) == 1 else None


def _widest(node, words):
    """The outermost terms and factors of an expression that have exactly these names."""
    names = [getattr(n, "id", None) or getattr(n, "attr", "") for n in ast.walk(node)]
    if sorted(name for name in names if name and name not in MODULES) == words:
        return [node] if node.lineno == node.end_lineno else []
    parts = [getattr(node, part, None) for part in ("left", "right", "operand", "body", "orelse")]
    match node:
        case ast.Call(func=ast.Attribute(value=array, attr=name)) if name in LAYOUT:
            parts.append(array)
    return [e for part in parts if part for e in _widest(part, words)]


def _place(term, lines):
    """The place of an expression; a syntax tree counts columns in bytes."""
    line, ends = lines[term.lineno - 1].encode(), (term.col_offset, term.end_col_offset)
    return term.lineno - 1, *(len(line[:end].decode()) for end in ends)
