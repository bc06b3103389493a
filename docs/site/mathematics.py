"""Two directives: a file's mathematics beside its code, and the public functions of a package.

Both read docstrings and source; a page has no copy of either.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from minilora.methods.base import Method

WIDTH = 88  # a signature that is longer gets a line an argument


def depends_on(directive: SphinxDirective, *modules: ModuleType | None) -> None:
    """The page is made anew when one of these files, or this one, has changed."""
    for path in (__file__, *(module.__file__ for module in modules if module)):
        directive.env.note_dependency(str(path))


def words(docstring: str) -> list[nodes.Node]:
    """A docstring's paragraphs; a paragraph that is indented stays as it is."""
    found: list[nodes.Node] = []
    for part in re.split(r"\n\s*\n|\n(?=Source: |Raises )", inspect.cleandoc(docstring)):
        lines = part.splitlines()
        if any(line.startswith("    ") for line in lines):
            found.append(code(textwrap.dedent(part), "text"))
        else:
            found.append(nodes.paragraph("", "", *inline(" ".join(map(str.strip, lines)))))
    return found


def inline(text: str) -> Iterator[nodes.Node]:
    """Text with its `names` as code."""
    for i, piece in enumerate(re.split(r"`([^`]+)`", text)):
        if piece:
            yield nodes.literal(text=piece) if i % 2 else nodes.Text(piece)


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


def listed(rows: list[tuple[str, str]]) -> nodes.field_list:
    """Names and what they are."""
    fields = []
    for name, text in rows:
        body = nodes.field_body("", nodes.paragraph("", "", *inline(text)))
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
        found = words(ast.get_docstring(tree) or "")
        record = getattr(module, "METHOD", None)
        if isinstance(record, Method):
            found.append(facts(record))
        for part in tree.body:
            if isinstance(part, ast.FunctionDef) and ast.get_docstring(part):
                text = box("mathematics-words", *words(ast.get_docstring(part) or ""))
                made = box("mathematics-code", code(without_docstring(part, source)))
                found.append(section(part.name, box("mathematics", text, made)))
        return found


def facts(record: Method) -> nodes.field_list:
    """What a record states about a technique."""
    rows = [
        ("Adapted weight", record.formula),
        ("Source", record.source),
        ("What trains", ", ".join(record.trains) if not record.whole_model else "every weight"),
        ("Numbers of a linear", inspect.cleandoc(record.count.__doc__ or "")),
    ]
    if "rank" in record.takes:
        rows.append(("Rank", f"{record.default_rank} where none is given"))
    for name, default in record.options.items():
        rows.append((f"{name}", f"{default} where it is not given: {record.about.get(name, '')}"))
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


def setup(app) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("mathematics", Mathematics)
    app.add_directive("api", Api)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
