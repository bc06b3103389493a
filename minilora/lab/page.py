"""A comparison as one HTML page that needs no other file: to read, to project or to print."""

import base64
import re
import shlex
import string
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from ..methods import METHODS
from ..support.plots import PARTS, human, rows
from .table import COLUMNS, Results, notes_on, references, score, standard_error, task_title

TITLES = {  # figure -> its heading
    "convergence": "Who learns how fast",
    "accuracy": "Accuracy against trainable numbers",
    "memory": "Where the memory goes",
}

CAPTIONS = {  # figure -> what it shows, and what to look for
    "convergence": (
        "Mean cross-entropy over the seeds, on a logarithmic scale: left on validation words, "
        "which are not in the training data, right on the training batches since the point before. "
        "Look for the line that falls first and for the one that falls furthest. Where a line on "
        "the left no longer falls while its line on the right still does, the model only memorises "
        "the training words."
    ),
    "accuracy": (
        "Share of held-out words answered exactly, against the count of numbers that the optimizer "
        "updates. A point is the mean over the seeds, its bar one standard deviation each way (for "
        "one seed: the standard error over the words). Dotted lines are the references. Look for "
        "how much accuracy more trainable numbers give, and whether any row beats a rule written "
        "by hand."
    ),
    "memory": (
        "Bytes that one training step holds. Left, stacked: look for the largest part, and for how "
        "much of the whole bar a technique saves. Right, each part by itself on a logarithmic "
        "scale: look for parts that shrink by orders of magnitude. 1 MiB = 1,048,576 bytes. Not "
        "all parts are held at the same time, so the length of a bar is not the peak."
    ),
}

PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5a6068; --paper: #ffffff;
  --line: #d5d9de; --band: #f4f6f8; --right: #0b6b3a; --wrong: #a3241c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a3aab3; --paper: #16181b;
  --line: #3a3f46; --band: #202328; --right: #6fd39b; --wrong: #ff9b90; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 78rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
p, li, figcaption { max-width: 48rem; }
.lead { font-size: 1.15rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .92rem; }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .5rem; }
caption span { display: block; position: sticky; left: 0;
  max-width: min(48rem, calc(100vw - 2rem)); }
th, td { padding: .3rem .45rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; }
thead tr.groups th { text-align: center; font-weight: 400; color: var(--soft); }
th[scope=row], .text th, .text td, thead th:first-child { text-align: left; }
.text th { white-space: normal; }
th[scope=row], thead tr:last-child th:first-child { position: sticky; left: 0;
  background: inherit; }
thead tr, tbody tr { background: var(--paper); }
a { color: inherit; }
.text { font-size: .8rem; }
tbody tr:nth-child(even) { background: var(--band); }
.right { color: var(--right); }
.wrong { color: var(--wrong); font-weight: 600; }
figure { margin: 0; }
figure img { display: block; width: 100%; min-width: 40rem; background: #fff; border-radius: 6px; }
figcaption { margin-top: .5rem; }
pre { padding: .8rem 1rem; background: var(--band); border-radius: 6px; white-space: pre-wrap; }
pre span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  table { font-size: 7.5pt; } th, td { padding: .15rem .25rem; } .wide { overflow: visible; }
  figure img { min-width: 0; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$headline</p>
</header>
<main>
<section>
<h2>The techniques</h2>
$techniques
</section>
<section>
<h2>All rows</h2>
$table
$notes
</section>
$figures
<section>
<h2>Answers</h2>
$answers
</section>
<section>
<h2>How to reproduce these numbers</h2>
$recipe
</section>
</main>
</body>
</html>
""")


def page(results: Results, images: Mapping[str, bytes]) -> str:
    """The whole page; images: file name -> PNG, embedded."""
    figures = [figure(results, name.removesuffix(".png"), png) for name, png in images.items()]
    return PAGE.substitute(
        title=escape(f"Fine-tuning compared: {task_title(results['task'])}"),
        headline=escape(headline(results)),
        techniques=techniques(results),
        table=comparison_table(results),
        notes="".join(f'<p class="soft">{escape(note)}</p>\n' for note in notes_on(results)),
        figures="\n".join(figures),
        answers=answers(results),
        recipe=recipe(results),
    )


def headline(results: Results) -> str:
    """One sentence with the scores of the best row, the smallest row and the references."""
    settings, methods = results["settings"], results["methods"].values()
    best = max(methods, key=lambda row: row["exact_match"])
    least = min(methods, key=lambda row: row["trainable"])
    text = (
        f"After {settings['steps']:,} steps on {settings['train_size']:,} words, {best['title']} "
        f"answers {score(best)} of {settings['test_size']:,} held-out words exactly, training "
        f"{best['trainable']:,} numbers (the base has {results['base']['parameters']:,})"
    )
    if least is not best:
        text += f"; {least['title']} {score(least)}, training only {least['trainable']:,}"
    return f"{text}. For comparison: {references(results)}."


def comparison_table(results: Results) -> str:
    """The terminal's columns, and the standard error of each row."""
    n = results["settings"]["test_size"]
    spread = ("its middle half", _middle_half)
    error = ("std. error", lambda row: f"{standard_error(row['exact_match'], n):.3f}")
    groups = [
        (title, [*group, spread] if group[0][0] == "ms/step" else group) for title, group in COLUMNS
    ] + [("", [error])]
    over = "".join(f'<th colspan="{len(c)}" scope="colgroup">{escape(t)}</th>' for t, c in groups)
    columns = [column for _, group in groups for column in group]
    return _table(
        f'<tr class="groups">{over}</tr>\n{_heads(head for head, _ in columns)}',
        [_row(cell(row) for _, cell in columns) for row in rows(results).values()],
        "One row for each technique: loss and exact match are means over its seeds, ms/step is a "
        "median.",
    )


def _middle_half(row) -> str:
    """The quartiles of the time of a step, if the record has them."""
    quartiles = row.get("ms_per_step_quartiles")
    return "–".join(f"{q:.1f}" for q in quartiles) if quartiles else "–"


def techniques(results: Results) -> str:
    """One line for each technique: the weight that it makes, and its paper."""
    lines = []
    for name, row in results["methods"].items():
        record = METHODS.get(name)
        if record is None:
            continue
        source = escape(record.source)
        for number in re.findall(r"arXiv:(\d+\.\d+)", record.source):
            link = f'<a href="https://arxiv.org/abs/{number}">arXiv:{number}</a>'
            source = source.replace(f"arXiv:{number}", link)
        lines.append(
            f"<li><strong>{escape(row['title'])}</strong>: {escape(record.formula)} ({source})</li>"
        )
    return (
        "<p>A linear layer is y = x Wᵀ. Each technique replaces W by another weight; A (r, I) and "
        f"B (O, r) have rank r:</p>\n<ul>\n{chr(10).join(lines)}\n</ul>"
    )


def figure(results: Results, name: str, png: bytes) -> str:
    """One figure with its heading, its numbers as alternative text, and its caption."""
    data = base64.b64encode(png).decode()
    return (
        f"<section>\n<h2>{escape(TITLES[name])}</h2>\n<figure>\n"
        f'<div class="wide"><img alt="{escape(alternative(results, name))}" '
        f'src="data:image/png;base64,{data}"></div>\n'
        f"<figcaption>{escape(CAPTIONS[name])}</figcaption>\n</figure>\n</section>"
    )


def alternative(results: Results, name: str) -> str:
    """What a figure shows, in words and numbers."""
    every, methods = rows(results).values(), results["methods"].values()
    if name == "convergence":
        first = "Lines of loss against optimizer steps. Validation loss after the last step"
        parts = [f"{row['title']} {row['curve'][-1][2]:.3f}" for row in every]
    elif name == "accuracy":
        first = "Points of exact match against trainable numbers"
        parts = [f"{r['title']} {r['exact_match']:.3f} with {r['trainable']:,}" for r in methods]
    else:
        first = "Bars of bytes by part"
        sizes = [[f"{part} {human(row['bytes'][part])}" for part in PARTS] for row in every]
        parts = [f"{row['title']} {', '.join(size)}" for row, size in zip(every, sizes)]
    return f"{first}: {'; '.join(parts)}."


def answers(results: Results) -> str:
    """The examples with every row's answer: right ones ticked, wrong ones crossed."""
    every, body = rows(results), []
    for example in results["examples"]:
        cells = [f'<th scope="row">{escape(example["prompt"][1:-1])}</th>']
        cells += [f"<td>{escape(' or '.join(example['right']))}</td>"]
        for name in every:
            answer = example["answers"][name]
            look, mark = ("right", "✓") if answer in example["right"] else ("wrong", "✗")
            cells.append(f'<td class="{look}">{mark} {escape(answer) or "(nothing)"}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"The first {len(body)} held-out words, each row's first seed. ✓ right, ✗ wrong."
    heads = _heads(["word", "right", *(row["title"] for row in every.values())])
    return _table(heads, body, caption, "text")


def recipe(results: Results) -> str:
    """The command line, every seed's score, all settings, the versions and the machine."""
    scores = [
        _row([r["title"], f"{r['lr']:g}", *(f"{s:.4f}" for s in r["seeds"]), _options(r)])
        for r in rows(results).values()
    ]
    seeds = [f"seed {seed}" for seed in range(results["settings"]["seeds"])]
    heads = _heads(["method", "learning rate", *seeds, "options"])
    settings = {k.replace("_", " "): _plain(v) for k, v in results["settings"].items()}
    return "\n".join(
        [
            f"<pre><code>{_unbroken(command_line(results))}</code></pre>",
            _table(heads, scores, "Exact match of each seed."),
            "<h3>Settings</h3>",
            _pairs(settings),
            "<h3>Made with</h3>",
            _pairs(results.get("made_with", {})),
        ]
    )


def command_line(results: Results) -> str:
    """The command that reproduces these results."""
    s = results["settings"]
    words = ["minilora", "compare", "--base", s["base"], "--task", s["task"]]
    words += ["--methods", ",".join(s["methods"]), "--train-size", s["train_size"]]
    words += ["--rank", s["rank"]]
    for name, rank in s["ranks"].items():
        words += ["--rank", f"{name}={rank}"]
    words += ["--targets", _plain(s["targets"], ",")]
    words += ["--steps", s["steps"], "--seeds", s["seeds"]]
    for name, row in rows(results).items():
        words += ["--lr", f"{name}={row['lr']!r}"]
    return shlex.join(map(str, words))


def _unbroken(line: str) -> str:
    """A line's words in HTML, each kept together: a browser would break --rank after a dash."""
    return " ".join(f"<span>{escape(word)}</span>" for word in line.split(" "))


def _options(row):
    alpha = {"alpha": row["alpha"]} if row["alpha"] else {}
    return _plain({**alpha, **row["options"]})


def _plain(value: Any, separator: str = ", ") -> str:
    """A setting as text."""
    if isinstance(value, Mapping):
        value = [f"{k} = {_plain(v)}" for k, v in value.items()] or ["–"]
    if isinstance(value, list | tuple):
        return separator.join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _heads(names: Iterable[str]) -> str:
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return f"<tr>{cells}</tr>"


def _row(cells: Iterable[str]) -> str:
    """A table's row: the first cell is its heading."""
    first, *others = map(escape, cells)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in others)}</tr>'


def _table(head: str, body: Iterable[str], caption: str, look: str = "") -> str:
    """A table that can scroll by itself on a narrow screen."""
    lines = "\n".join(body)
    return (
        f'<div class="wide" role="region" aria-label="{escape(caption)}" tabindex="0">'
        f'<table class="{look}">\n'
        f"<caption><span>{escape(caption)}</span></caption>\n"
        f"<thead>\n{head}\n</thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def _pairs(named: Mapping[str, str]) -> str:
    """Name and value, one line for each."""
    lines = "".join(_row([name, str(value)]) for name, value in named.items())
    return f'<div class="wide"><table class="text"><tbody>\n{lines}\n</tbody></table></div>'
