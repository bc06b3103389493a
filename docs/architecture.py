"""The rooms of the package and one LoRA step through them, read from the code.

    python docs/architecture.py     # draws the figure; rewrites the tables of architecture.md
                                    # and the numbers of lines in the README's reading order

Rooms, lines and imports come from the files, the hops from a training step that runs under Python's
profiler. The words are written here.
"""

import ast
import contextlib
import inspect
import re
import sys
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

import minilora as ml
from minilora.fast.twins import TWINS
from minilora.llama.model import init_params
from minilora.ops.adamw import adamw
from minilora.support import plots

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "minilora"
README = ROOT / "README.md"
PAGE, FIGURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "figures" / "architecture.png"
TARGET = "q_proj"  # the linear that is followed

# Room -> the question that brings a reader there. From the top floor to the ground: a room may
# import those of its own floor and of the floors below it.
FLOORS = (
    {
        "studies": "Is what a paper claims true here?",
        "minilora_course": "Is my answer to an exercise right?",
    },
    {
        "commands": "What does `minilora NAME` do?",
        "cli": "How does a command start?",
    },
    {
        "check": "Is my own pair right?",
        "bench": "How fast is it?",
    },
    {
        "lab": "Which technique is better?",
        "step": "What happens in a training step?",
    },
    {"memory": "Where do the bytes go?"},
    {"tuning": "How is a model adapted, trained, saved?"},
    {
        "text": "How do words become numbers?",
        "formats": "How is a model read from a file?",
    },
    {"llama": "What is the model?"},
    {"fast": "What makes it fast?"},
    {"methods": "What is the mathematics of a technique?"},
    {"ops": "What is the mathematics of the model?"},
    {
        "engine": "How does a gradient flow?",
        "gradcheck": "Is a backward right?",
        "strategies": "Where do test cases come from?",
    },
    {"support": "Who reads files, checks values, draws?"},
)
ROOMS = {name: question for floor in FLOORS for name, question in floor.items()}


# ---------------------------------------- the rooms


def place(name: str) -> Path:
    """A room's folder, or its one file."""
    folders = (ROOT / name, ROOT / "notebooks" / name, PACKAGE / name)
    return next((folder for folder in folders if folder.is_dir()), PACKAGE / f"{name}.py")


def files_in(where: Path) -> list[Path]:
    """A folder's files of Python, or the file itself."""
    return sorted(where.rglob("*.py")) if where.is_dir() else [where]


def lines_in(where: Path) -> int:
    """How many lines of Python a folder or a file has."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files_in(where))


def imports_of(name: str) -> list[str]:
    """The rooms that a room imports, from the top floor to the ground."""
    imported = {room for path in files_in(place(name)) for room in imported_rooms(path)}
    return [room for room in ROOMS if room in imported and room != name]


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            dotted = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = PACKAGE in path.parents
            up = path.relative_to(ROOT).parts[: -node.level] if node.level and inside else ()
            module = node.module.split(".") if node.module else []
            dotted = [[*up, *module, alias.name] for alias in node.names]
        else:
            continue
        found |= {parts[1] for parts in dotted if parts[0] == "minilora" and len(parts) > 1}
    return found


def about(n: int) -> int:
    """n to two digits: 1,063 as 1,100. A page need not change with each line of code."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return round(n / unit) * unit


def table_of_rooms() -> str:
    """The rooms as a table, from the top floor to the ground."""
    rows = ["| room | the question | lines | imports |", "|---|---|--:|---|"]
    for name, question in ROOMS.items():
        where = place(name)
        link = f"[{name}](../{where.relative_to(ROOT).as_posix()}{'/' * where.is_dir()})"
        imports = ", ".join(imports_of(name)) or "none"
        rows.append(f"| {link} | {question} | {about(lines_in(where)):,} | {imports} |")
    return "\n".join(rows)


# ---------------------------------------- the hops of one step


class Hop(NamedTuple):
    """A stay in one file: the functions called there, one inside the other."""

    file: str  # from the package: "tuning/train.py"
    functions: tuple[str, ...]

    def names(self) -> str:
        """The functions in order: a class or an outer function is named once."""
        shown, named = [], {""}
        for name in self.functions:
            name = name.replace("<locals>.", "")
            owner, _, own = name.rpartition(".")
            shown.append(own if owner in named else name)
            named |= {owner, name}
        return " → ".join(shown)


ENDS = {  # the functions where the three ways of a step end
    "lora_forward": "forward",
    "lora_backward": "back, along the tape",
    "adamw": "the step",
}


def trace(plain: bool = True) -> dict[str, list[Hop]]:
    """Function -> the way from `train` to its first call, for one step of LoRA on a tiny Llama.

    plain: on the pages, else with their twins.
    """
    config = ml.ModelConfig(29, 16, 24, 1, 4, 2, tie_word_embeddings=True)
    tuned = ml.attach(ml.Llama(config, init_params(config)), "lora", rank=2, targets=TARGET)
    ids = np.arange(24).reshape(2, 12)
    ways: dict[str, list[Hop]] = {}

    def look(frame, event, _):
        name = frame.f_code.co_name
        if event == "call" and name in ENDS and name not in ways:
            ways[name] = way_to(frame)

    before = sys.getprofile()
    with ml.plain() if plain else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.setprofile(look)
        try:
            ml.train(tuned, [(ids, ids)], steps=1, lr=1e-3, progress=False)
        finally:
            sys.setprofile(before)
    return ways


def way_to(frame) -> list[Hop]:
    """The calls that lead from `train` to a frame, those of one file together."""
    calls = []
    while frame and (not calls or calls[-1][1] != "train"):
        calls.append((Path(frame.f_code.co_filename), frame.f_code.co_qualname))
        frame = frame.f_back
    hops: list[Hop] = []
    for path, name in reversed(calls):
        if path == PACKAGE / "fast" / "__init__.py" or name == "Function.__call__":
            continue  # it only chooses between page and twin
        file = path.relative_to(PACKAGE).as_posix()
        if hops and hops[-1].file == file:
            hops[-1] = Hop(file, (*hops[-1].functions, name))
        else:
            hops.append(Hop(file, (name,)))
    return hops


def twin_of(page, kind: str) -> Hop:
    """A twin as a hop: its file, its name."""
    function = inspect.unwrap(TWINS[getattr(page, kind)])
    path = Path(inspect.getsourcefile(function))
    return Hop(path.relative_to(PACKAGE).as_posix(), (function.__name__,))


class Words(NamedTuple):
    """What a hop does; what goes on from it, in lines for the figure."""

    done: str
    passed: tuple[str, ...] = ()


FORWARD = (
    Words("makes a leaf of the tape for each array that trains", ("ids, targets (N, T)", "leaves")),
    Words("builds `Forward`: how the base runs a linear", ("ids, targets", "Forward")),
    Words("embeds, then runs each layer and its linears", ("x (M, I), a tensor", "which rows")),
    Words("finds the arguments of this linear", ("the op", "x, W, s, A, B")),
    Words(
        "takes the arrays out of the tensors; chooses page or twin; puts the cache on the tape",
        ("the same as plain arrays",),
    ),
    Words("computes y (M, O) and the cache"),
)
BACK = (
    Words(
        "calls `backward` on the loss, for the gradients of the leaves",
        ("the loss: its node", "is the tape's last;", "a node has an op,", "a cache, parents"),
    ),
    Words("walks the tape backwards; gives each op its cache, and frees it", ("dy (M, O), cache",)),
    Words("computes dx, dA, dB; dA and dB go to the leaves"),
)
STEP = (
    Words(
        "clips the gradients; a technique's `grad_rule` may change them",
        ("gradients by", "name, and the", "rate"),
    ),
    Words("calls `adamw` for each array that trains", ("p, its gradient,", "m, v")),
    Words("writes p, m and v in place; then a technique's `after_step` runs"),
)


def table_of_hops() -> str:
    """The way forward as a table, then the two ways of the same step that follow it."""
    ways, numbers = trace(), dict[str, int]()
    rows = ["| | file | functions | what is done |", "|--:|---|---|---|"]
    for (name, title), words in zip(ENDS.items(), (FORWARD, BACK, STEP)):
        rows.append(f"| | **{title}** | | |")
        for i, (hop, said) in enumerate(zip(ways[name], words, strict=True), 1):
            number = i if words is FORWARD else numbers.get(hop.file, "")
            numbers.setdefault(hop.file, number)
            rows.append(f"| {number} | {file_of(hop)} | `{hop.names()}` | {said.done} |")
    return "\n".join(rows)


def file_of(hop: Hop) -> str:
    """A link to a hop's file."""
    return f"[{hop.file}](../minilora/{hop.file})"


# ---------------------------------------- the page and the figure


def filled(text: str) -> str:
    """The page with its two tables as the code is now."""
    for name, table in (("rooms", table_of_rooms()), ("hops", table_of_hops())):
        block = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(block, lambda m, t=table: f"{m[1]}\n{t}\n\n{m[2]}", text, flags=re.S)
    return text


def with_lines(text: str) -> str:
    """The README with the number of lines after each "[file](path), "."""
    return LINES.sub(lambda m: f"]({m[1]}), {about(lines_in(ROOT / m[1])):,} lines", text)


LINES = re.compile(r"\]\(([^)]+)\), ([\d,]+) lines")

WIDTH, HEIGHT = 11.0, 9.4  # inches
TINTS = {  # the rooms that the step passes
    "tuning": "#CFE3F1",
    "llama": "#D3EBDD",
    "engine": "#FBE3C8",
    "ops": "#F6DCE8",
    "methods": "#F6DCE8",
    "fast": "#E4E0F2",
}
GREY, SMALL, LINE = "#F3F4F6", 9.5, 0.18  # other rooms; size of type in points; inches a line


def draw():
    """Left the rooms, floor upon floor; right the hops of one step."""
    with plots.style():
        figure = plots.canvas(WIDTH, HEIGHT)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))  # inches, from the top left
        axes.axis("off")
        heading(axes, 0.4, "The rooms: imports go down")
        draw_rooms(axes, 0.4, 3.95)
        heading(axes, COLUMNS[0][0], "One step of LoRA: calls go down, arrays come back")
        draw_step(axes)
    return figure


def heading(axes, x, text):
    """The words above a half."""
    axes.text(x, 0.24, text, size=12.5, weight="bold", va="center")


def note(axes, x, y, lines, **how):
    """Lines of text from y down."""
    for i, line in enumerate(lines):
        axes.text(x, y + i * LINE, line, **{"size": SMALL, "va": "center", **how})


def box(axes, left, top, right, bottom, colour, head, body=()):
    """A rectangle with a bold first line, and lines below it."""
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.06"
    size = right - left, bottom - top
    axes.add_patch(FancyBboxPatch((left, top), *size, shape, fc=colour, ec=plots.INK, lw=0.8))
    note(axes, left + 0.1, top + 0.16, [head], size=SMALL + 0.5, weight="bold")
    note(axes, left + 0.1, top + 0.16 + LINE, body)


def arrow(axes, start, end, lines=(), style="-"):
    """An arrow with lines of text to the right of its middle."""
    look = dict(arrowstyle="-|>", color=plots.INK, lw=1.3, ls=style, shrinkA=0, shrinkB=0)
    axes.annotate("", end, start, arrowprops=look)
    middle = (start[1] + end[1]) / 2 - LINE * (len(lines) - 1) / 2
    note(axes, start[0] + 0.1, middle, lines, style="italic")


def draw_rooms(axes, left, right):
    """A box a room, with its question; one floor below the other."""
    y, gap = 0.5, 0.08
    for floor in FLOORS:
        width = (right - left - gap * (len(floor) - 1)) / len(floor)
        numbers = {name: f"{about(lines_in(place(name))):,} lines" for name in floor}
        longest = max(len(name) + len(number) for name, number in numbers.items())
        narrow = len(floor) * longest > 36  # no place for the number beside the name
        questions = [question.replace("`", "") for question in floor.values()]
        bodies = [textwrap.wrap(question, int((width - 0.1) / 0.076)) for question in questions]
        height = 0.13 + LINE * (1 + max(map(len, bodies)) + narrow)
        for i, (name, body) in enumerate(zip(floor, bodies)):
            x, lines = left + i * (width + gap), numbers[name]
            inside = [*body, lines] if narrow else body
            box(axes, x, y, x + width, y + height, TINTS.get(name, GREY), name, inside)
            note(axes, x + width - 0.1, y + 0.16, [] if narrow else [lines], ha="right")
        y += height + gap
    arrow(axes, (0.2, 0.5), (0.2, y - gap))


def draw_step(axes):
    """Three columns: forward, back along the tape, and AdamW's step; below each its twin."""
    ways = trace()
    forward, back, step = (ways[name] for name in ENDS)
    (left, right), (back_left, back_right), (step_left, step_right) = COLUMNS
    for i, hop in enumerate(forward):
        wide = step_right if i == 0 else right
        hop_box(axes, left, i, wide, hop, i + 1)
        if i:
            line = left + 0.3
            arrow(axes, (line, row(i - 1) + tall(i - 1)), (line, row(i)), FORWARD[i - 1].passed)
    for x, words in ((back_left, "then back"), (step_left, "then the step")):
        note(axes, x + 0.1, row(0) + 0.16 + LINE, [words])
    for x, words in ((back_left, BACK[0].passed), (step_left, STEP[0].passed)):
        arrow(axes, (x + 0.3, row(0) + tall(0)), (x + 0.3, row(4)), words)
    hop_box(axes, back_left, 4, back_right, back[1], 5)
    hop_box(axes, back_left, 5, back_right, back[2], 6)
    arrow(axes, (back_left + 0.3, row(4) + tall(4)), (back_left + 0.3, row(5)), BACK[1].passed)
    hop_box(axes, step_left, 4, step_right, step[1])
    hop_box(axes, step_left, 5, step_right, step[2])
    arrow(axes, (step_left + 0.3, row(4) + tall(4)), (step_left + 0.3, row(5)), STEP[1].passed)
    for i, words in ((4, "tape"), (5, "cache")):
        y = row(i) + tall(i) / 2
        arrow(axes, (right, y), (back_left, y), style=":")
        note(axes, (right + back_left) / 2, y - 0.12, [words], ha="center", style="italic")
    op, above = ml.METHODS["lora"].op, (row(5) + tall(5) + row(6)) / 2
    pages = (left, right, op, "forward"), (back_left, back_right, op, "backward")
    for x, end, page, kind in (*pages, (step_left, step_right, adamw, "value")):
        note(axes, x + 0.1, above, ["or its twin"], style="italic")
        hop_box(axes, x, 6, end, twin_of(page, kind))


COLUMNS = (4.25, 7.05), (7.6, 9.3), (9.42, 10.85)  # left and right of each


def row(i):
    """The top of a row of hops."""
    return 0.5 + 1.2 * i


def tall(i):
    """The height of a row: the model's functions and the tape's take two lines."""
    return 0.7 if i in (2, 4) else 0.52


def hop_box(axes, left, i, right, hop, number=None):
    """A hop: its number and file, its functions."""
    body = textwrap.wrap(hop.names(), int((right - left - 0.1) / 0.074))
    head = f"{number}  {hop.file}" if number else hop.file
    room = hop.file.split("/")[0].removesuffix(".py")
    box(axes, left, row(i), right, row(i) + tall(i), TINTS[room], head, body)


if __name__ == "__main__":
    for path, now in ((PAGE, filled), (README, with_lines)):
        path.write_text(now(path.read_text(encoding="utf-8")), encoding="utf-8")
    FIGURE.write_bytes(plots.png(draw()))
