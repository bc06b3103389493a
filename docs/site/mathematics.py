"""Two directives: a file's mathematics beside its code, and the public functions of a package. A
role: a text with its formulas typeset.

Both read docstrings and source; a page has no copy of either.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Collection, Iterator
from types import ModuleType
from urllib.parse import quote

import step
import tex
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from minilora.engine import Op
from minilora.methods.base import Method

EQUAL = re.compile(r"=|\\leftarrow ")
WIDTH = 88  # a signature that is longer gets a line an argument


def depends_on(directive: SphinxDirective, *modules: ModuleType | None) -> None:
    """The page is made anew when one of these files, or this one, has changed."""
    for path in (__file__, tex.__file__, *(module.__file__ for module in modules if module)):
        directive.env.note_dependency(str(path))


def words(docstring: str, names: Collection[str] | None = None) -> list[nodes.Node]:
    """A docstring's paragraphs; a paragraph that is indented stays as it is.

    names: words that are symbols in its formulas; where it is None, no formula is typeset.
    """
    found: list[nodes.Node] = []
    for part in re.split(r"\n\s*\n|\n(?=Source: |Raises )", inspect.cleandoc(docstring)):
        lines = part.splitlines()
        if any(line.startswith("    ") for line in lines):
            found.append(code(textwrap.dedent(part), "text"))
        else:
            found += paragraph(list(inline(" ".join(map(str.strip, lines)), names)))
    return found


def paragraph(found: list[nodes.Node]) -> Iterator[nodes.Node]:
    """A paragraph of these nodes; the equations that it begins with stand by themselves above."""
    equations = []
    while found and isinstance(found[0], nodes.math) and EQUAL.search(found[0].astext()):
        equation, rest = found.pop(0).astext(), found[0].astext() if found else ""
        mark = re.match("[,;:.]?", rest)[0]  # type: ignore[index]
        equations.append(equation + mark)
        if mark:
            found[:1] = [nodes.Text(text)] if (text := rest[1:].strip()) else []
    if equations:
        aligned = [EQUAL.sub(r"&\g<0>", equation, count=1) for equation in equations]
        text = "\n\n".join(aligned if len(aligned) > 1 else equations)
        yield nodes.math_block(text, text, docname="", number=None, label=None)
    if found:
        yield nodes.paragraph("", "", *found)


def inline(text: str, names: Collection[str] | None = ()) -> Iterator[nodes.Node]:
    """Text with its `names` as code and, unless `names` is None, its formulas typeset."""
    for i, piece in enumerate(re.split(r"`([^`]+)`", text)):
        if i % 2:
            yield nodes.literal(text=piece)
        elif names is None:
            yield nodes.Text(piece)
        else:
            for kind, part in tex.pieces(piece, names):
                yield nodes.math(part, part) if kind == "math" else nodes.Text(part)


def code(text: str, language: str = "python") -> nodes.literal_block:
    """A block of code; `force`: a signature is coloured too, though it is no statement."""
    return nodes.literal_block(text, text, language=language, force=True)


def section(title: str, *content: nodes.Node) -> nodes.section:
    """A section with this title, and an id made of it."""
    made = nodes.section("", nodes.title("", title), *content)
    made["ids"] = [nodes.make_id(title.replace(".", "-"))]
    made["names"] = [nodes.fully_normalize_name(title)]
    return made


def box(name: str, *content: nodes.Node) -> nodes.container:
    """A box with a class for the style sheet."""
    return nodes.container("", *content, classes=[name])


def listed(rows: list[tuple[str, Iterator[nodes.Node]]]) -> nodes.field_list:
    """Names and what they are."""
    fields = []
    for name, words in rows:
        body = nodes.field_body("", nodes.paragraph("", "", *words))
        fields.append(nodes.field("", nodes.field_name("", name), body))
    return nodes.field_list("", *fields)


class Mathematics(SphinxDirective):
    """`mathematics` MODULE: each function's docstring, and beside it its code."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        depends_on(self, module)
        source = inspect.getsource(module)
        tree = ast.parse(source)
        found = words(ast.get_docstring(tree) or "", ())
        record = getattr(module, "METHOD", None)
        if isinstance(record, Method):
            found.append(facts(record))
        found += self.drawn(module, record)
        for part in tree.body:
            if isinstance(part, ast.FunctionDef) and ast.get_docstring(part):
                said = words(ast.get_docstring(part) or "", symbols(part))
                above = isinstance(said[0], nodes.math_block)  # equations have the whole width
                text = box("mathematics-words", *said[above:])
                made = box("mathematics-code", code(without_docstring(part, source)))
                found.append(section(part.name, *said[:above], box("mathematics", text, made)))
        return found

    def drawn(self, module: ModuleType, record: Method | None) -> list[nodes.Node]:
        """A link to the place in the drawn step of each op, or rule, that the step has."""
        names = [thing.name for thing in vars(module).values() if isinstance(thing, Op)]
        root, found = "../" * self.env.docname.count("/"), nodes.paragraph()
        for name in step.anchors(record.title if record else "", names):
            found += nodes.Text(" · " if found.children else "In a training step, drawn: ")
            found += nodes.reference("", name, refuri=f"{root}step.html#{quote(name)}")
        return [found] if found.children else []


def symbols(function: ast.FunctionDef) -> set[str]:
    """The names of a function's arguments and of what it makes."""
    made = (n.id for n in ast.walk(function) if isinstance(n, ast.Name))
    return {*(argument.arg for argument in function.args.args), *made}


def facts(record: Method) -> nodes.field_list:
    """What a record states about a technique."""
    trains = ", ".join(record.trains) if not record.whole_model else "every weight"
    rows = [
        ("Adapted weight", inline(record.formula)),
        ("Source", inline(record.source, None)),
        ("What trains", inline(trains, None)),
        ("Numbers of a linear", inline(inspect.cleandoc(record.count.__doc__ or ""))),
    ]
    if "rank" in record.takes:
        rows.append(("Rank", inline(f"{record.default_rank} where none is given", None)))
    for name, default in record.options.items():
        text = f"{default} where it is not given: {record.about.get(name, '')}"
        rows.append((name, inline(text, None)))
    return listed(rows)


def without_docstring(function: ast.FunctionDef, source: str) -> str:
    """A function's source as it stands in the file, without its docstring."""
    lines = source.splitlines()
    doc = function.body[0]
    start = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    assert doc.end_lineno and function.end_lineno
    kept = lines[start - 1 : doc.lineno - 1] + lines[doc.end_lineno : function.end_lineno]
    return "\n".join(kept)


class Api(SphinxDirective):
    """`api` PACKAGE: the names of its __all__, each with its signature and its docstring."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = importlib.import_module(self.arguments[0])
        named = {name: getattr(package, name) for name in package.__all__}
        depends_on(self, *(inspect.getmodule(t) for t in named.values() if callable(t)))
        return [
            section(f"ml.{name}", *described(f"ml.{name}", thing))
            for name, thing in named.items()
            if callable(thing)
        ]


def described(name: str, thing) -> list[nodes.Node]:
    """Signature and docstring of a function; of a class also of its public methods."""
    found = [code(signature(name, thing)), *words(thing.__doc__ or "")]
    if inspect.isclass(thing):
        for part, value in vars(thing).items():
            function = value.fget if isinstance(value, property) else value
            doc = getattr(function, "__doc__", None)
            if part.startswith("_") or not inspect.isfunction(function) or not doc:
                continue
            shown = part if isinstance(value, property) else signature(part, function)
            found.append(box("api-method", code(shown), *words(doc)))
    return found


def signature(name: str, thing) -> str:
    """name(arguments) -> type."""
    try:
        signature = inspect.signature(thing)
    except ValueError:
        return name
    parts = [p for p in signature.parameters.values() if p.name != "self"]
    line = f"{name}{signature.replace(parameters=parts)}"
    if len(line) <= WIDTH:
        return line
    return name + signature.replace(parameters=parts).format(max_width=WIDTH)


def formula(name, rawtext, text, lineno, inliner, options=None, content=None):
    """The role {formula}: text with its formulas typeset."""
    return list(inline(text)), []


def setup(app) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_role("formula", formula)
    app.add_directive("mathematics", Mathematics)
    app.add_directive("api", Api)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
