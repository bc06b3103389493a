"""A comparison in the terminal: the text before it, a line after each row, the final table."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ..methods import METHODS
from ..support.plots import human, reference_title, rows
from ..support.terminal import WIDTH, fill, many
from ..text import nouns, tasks

Results = Mapping[str, Any]  # of a whole comparison: results.json
Row = Mapping[str, Any]  # one method's record in it
Column = tuple[str, Callable[[Row], str]]  # head, row -> cell

STEP, SCORING = 0.016, 1.5  # seconds of a step and of scoring a run, with the embedded base


def markdown(head: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns: the first to the left, the others to the right."""
    lines = [list(head), *([str(cell) for cell in line] for line in body)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))]
        for line in [lines[0], rule, *lines[1:]]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def score(row: Row) -> str:
    """Exact match, with its standard deviation if there are several seeds."""
    deviation = f" ± {row['exact_match_sd']:.3f}" if len(row["seeds"]) > 1 else ""
    return f"{row['exact_match']:.3f}{deviation}"


def _count(n):
    return f"{n:,}" if n < 10_000_000 else f"{n / 1e6:,.1f} M"


def _bytes(part):
    return lambda row: human(row["bytes"][part])


MEMORY = {part: part for part in ("weights", "gradients", "optimizer")} | {"saved": "activations"}
COLUMNS: list[tuple[str, list[Column]]] = [  # in groups, each with a title or ""
    (
        "",
        [
            ("method", lambda r: r["title"]),
            ("rank", lambda r: str(r["rank"] or "–")),
            ("trainable", lambda r: _count(r["trainable"])),
        ],
    ),
    ("memory of one step", [(head, _bytes(part)) for head, part in MEMORY.items()]),
    ("", [("ms/step", lambda r: f"{r['ms_per_step']:.{1 if r['ms_per_step'] < 1000 else 0}f}")]),
    ("held-out words", [("loss", lambda r: f"{r['loss']:.3f}"), ("exact match", score)]),
    ("", [("adapter", lambda r: human(r["adapter_bytes"]))]),
]


def opening(settings: Any, width: int = WIDTH) -> str:
    """What a comparison with these settings will do, and about how long it takes."""
    titles = ", ".join(METHODS[name].title for name in settings.methods)
    runs = (len(settings.methods) + settings.scratch) * settings.seeds
    seconds = runs * (settings.steps * STEP + SCORING)
    duration = many(round(seconds / 60), "minute") if seconds >= 50 else "half a minute"
    about = f"; with the embedded base about {duration} on two cores"
    scratch = "; and the same model from scratch" if settings.scratch else ""
    lines = [
        f"{task_title(settings.task).capitalize()} from {settings.train_size:,} words, "
        f"base {settings.base!r}: {titles}{scratch}.",
        f"{many(runs, 'run')} ({many(settings.seeds, 'seed')} each) of {settings.steps:,} steps of "
        f"{settings.batch_size} words, each scored on all held-out words"
        f"{about if settings.task in tasks.TASKS else ''}.",
    ]
    return "\n".join(fill(line, width) for line in lines) + "\n"


def progress_line(row: Row, width: int = WIDTH) -> str:
    """A finished row, on one line if it fits."""
    text = (
        f"{row['title']:<17}{row['trainable']:>11,} numbers  "
        f"exact match {score(row):<13}  {row['ms_per_step']:.1f} ms/step"
    )
    return fill(text, width, 4)


def table(results: Results, width: int = WIDTH) -> str:
    """The final table and three notes; the report has all of them (`notes_on`).

    width: columns. A wider table is split into several, each with the names of the methods.
    """
    every = list(rows(results).values())
    first, *others = [(title, column) for title, group in COLUMNS for column in group]
    blocks = [[first]]
    for column in others:
        wider = [*blocks[-1], column]
        if len(wider) > 2 and len(_block(wider, every)[1]) > width:
            blocks.append([first, column])
        else:
            blocks[-1] = wider
    lines = [line for block in blocks for line in ("", *_block(block, every))]
    notes = [fill(note, width, 2) for note in short_notes(results)]
    return "\n".join([*lines, *notes])


def _block(columns, every) -> list[str]:
    """The lines of a table of these columns, under the titles of their groups."""
    groups = [list(group) for _, group in itertools.groupby(columns, key=lambda c: c[0])]
    heads = [[head for _, (head, _) in group] for group in groups]
    body = [[[cell(row) for _, (_, cell) in group] for group in groups] for row in every]
    widths = [[max(map(len, column)) for column in zip(*group)] for group in zip(heads, *body)]
    titles = []
    for group, wide in zip(groups, widths):
        title = f" {group[0][0]} " if group[0][0] else ""
        wide[0] += max(0, len(title) - sum(wide) - len(wide) + 1)
        titles.append(title.center(sum(wide) + len(wide) - 1, "─" if title else " "))
    head, *lines = (_line(cells, widths) for cells in (heads, *body))
    return ["  ".join(titles).rstrip(), head, rule := "─" * len(head), *lines, rule]


def _line(groups: list[list[str]], widths: list[list[int]]) -> str:
    """Cells on the right of their columns, the first of all on the left."""
    padded = [[cell.rjust(w) for cell, w in zip(*part)] for part in zip(groups, widths)]
    padded[0][0] = groups[0][0].ljust(widths[0][0])
    return "  ".join(" ".join(part) for part in padded)


def short_notes(results: Results) -> list[str]:
    """Three lines under the table: what to compare with, what was scored, what is held."""
    n, (batch, length, _) = results["settings"]["test_size"], _first(results)["bytes_at"]
    tie = 2 * standard_error(median(row["exact_match"] for row in results["methods"].values()), n)
    given = results["rates"]["given"]
    others = "" if len(given) == len(rows(results)) else "chosen on validation words"
    rates = filter(None, [others, f"{', '.join(given)} by --lr" if given else ""])
    return [
        f"Compare with: {references(results, without='scratch')}.",
        f"{n:,} held-out words; {deviation(results)}; less than {tie:.2f} apart is a tie.",
        f"Rates: {'; '.join(rates)}. Memory: largest batch, {batch} × {length} tokens; "
        "saved = for backward.",
    ]


def _first(results: Results) -> Row:
    return next(iter(results["methods"].values()))


def deviation(results: Results) -> str:
    """What ± stands for."""
    seeds = results["settings"]["seeds"]
    if seeds == 1:
        return "one seed, so no spread is known"
    return f"± = standard deviation over {seeds} seeds"


def notes_on(results: Results) -> list[str]:
    """The report's notes on its table: references, rates, options, time, how bytes are counted."""
    methods = list(results["methods"].values())
    n, best = results["settings"]["test_size"], max(row["exact_match"] for row in methods)
    batch, length, computed = methods[0]["bytes_at"]
    whole = methods[0]["rectangle_activations"] / methods[0]["bytes"]["activations"]
    return [
        f"Exact match to compare with: {references(results)}.",
        f"Scored on {n:,} held-out words: {deviation(results)}; as a sample of words, {best:.3f} "
        f"has a standard error √(p(1-p)/n) of {standard_error(best, n):.3f}.",
        choice_of_rates(results),
        *own_options(results),
        *cost(results),
        f"Memory: arrays held in a step on the largest batch, {batch} × {length} tokens, of which "
        f"{computed} affect a loss and are computed; saved = activations kept for backward, each "
        f"array once (for all {batch * length} tokens {methods[0]['title']} would keep {whole:.1f} "
        "times as much). "
        "1 KiB = 1,024 bytes; results.json has the exact bytes. "
        "adapter = the file of its arrays.",
    ]


def choice_of_rates(results: Results) -> str:
    """The learning rates, and how each was chosen."""
    rates, given = results["rates"], results["rates"]["given"]
    listed = ", ".join(f"{row['title']} {row['lr']:g}" for row in rows(results).values())
    text = f"Learning rates ({listed}):"
    if len(given) < len(rows(results)):
        text += " chosen on validation words by minilora tune, from one grid for every row"
        if rates["differences"]:
            text += f", though for another comparison ({'; '.join(rates['differences'])})"
        text += "; never on held-out words."
    return text + (f" Given with --lr: {', '.join(given)}." if given else "")


def own_options(results: Results) -> list[str]:
    """A sentence on the options that differ from `attach`'s defaults, if there are any."""
    found = [
        f"{row['title']} {option} {value} (attach's default: {METHODS[name].options[option]})"
        for name, row in results["methods"].items()
        for option, value in row.get("options", {}).items()
        if name in METHODS and value != METHODS[name].options.get(option, value)
    ]
    return [f"Set as in the paper: {', '.join(found)}."] if found else []


def cost(results: Results) -> list[str]:
    """A sentence on the time and the memory of the comparison, if the results have them."""
    if not (took := results.get("took")):
        return []
    of_rows = [row["took"] for row in rows(results).values()]
    seconds = [part["seconds"] for part in of_rows]
    text = (
        f"Time: {took['seconds'] / 60:.1f} minutes in all; {took['base']['seconds']:.0f} s for the "
        f"base's scores, {min(seconds):.0f} to {max(seconds):.0f} s for a row, trained and scored."
    )
    if took.get("jobs", 1) > 1:
        text += f" {took['jobs']} runs at a time, one thread each: ms/step is for one thread."
    peaks = [part["resident_peak"] for part in (took, *of_rows)]
    if all(peaks):
        text += f" No process held more than {human(max(peaks))} of memory."
    return [text]


def references(results: Results, without: str = "") -> str:
    """The references' scores, except for the one named `without`."""
    scores = {name: value for name, value in results["references"].items() if name != without}
    return ", ".join(f"{reference_title(name)} {value:.3f}" for name, value in scores.items())


def standard_error(p: float, n: int) -> float:
    """√(p(1-p)/n): of a share p among n independent words."""
    return math.sqrt(p * (1 - p) / n)


def task_title(name: str) -> str:
    """What a task asks for: "past tense"."""
    titles = {task.name: task.title for task in tasks.TASKS.values()} | {nouns.NAME: nouns.TITLE}
    return titles.get(name, name)
