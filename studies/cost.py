"""What quality costs: every technique, on several choices of linears and at several ranks, against
the bytes of a step, the bytes of the adapter's file, and the seconds of a processor.

Each arm is tuned by itself: three rates around a guess, extended until the best is inside; 300 past
tenses, 150 steps of 32 words, five seeds and 600 validation words. Bytes are the ledger's, those of
a step on the largest batch of a run; seconds are of one thread, all arms in turns.

Known before these runs: an earlier record of most of these arms, whose rates two seeds chose on 300
validation words. The guesses of the first rates come from it.
"""

import math
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record
from minilora.lab.runs import adapter_bytes, largest_batch, the_model, trainable_numbers
from minilora.lab.statistics import Estimate, estimate, rounded
from minilora.lab.table import markdown
from minilora.memory import CATEGORIES, ledger
from minilora.methods import METHODS
from minilora.support import plots
from minilora.text import tasks
from minilora.tuning.adapters import attach
from minilora.tuning.train import train

from . import Study, _choice, _words, common
from ._headline import headline
from ._question import MARGIN, Finding, Question, of_parts, shown
from ._verdicts import FAILS, HOLDS, UNKNOWN, as_good, higher, lower, middle, resampled, times

ALL, QV, V = "all-linear", "q v", "v"
PUBLISHED = dict(METHODS["delta_lora"].of_run(150, 0))  # {"start_step": 3}, see delta_lora
SHORT = {ALL: "all", QV: "q, v", V: "v", "": ""}


def arm(method: str, targets: str = "", rank: int = 0, **options: Any) -> Cell:
    """One arm: what a cell says of it."""
    fixed = {"targets": targets, "rank": rank} if rank else {}
    return {"method": method, **fixed, "options": options}


ARMS: list[tuple[Cell, float]] = [  # an arm, and the middle of its first grid
    (arm("full"), 0.0005),
    *((arm("lora", QV, r), lr) for r, lr in ((1, 0.04), (4, 0.02), (16, 0.005), (64, 0.0025))),
    *((arm("lora", V, r), lr) for r, lr in ((1, 0.08), (4, 0.02), (16, 0.02))),
    *((arm("lora", ALL, r), lr) for r, lr in ((1, 0.005), (2, 0.005), (4, 0.005), (16, 0.005))),
    (arm("lora", ALL, 64), 0.00125),
    # alpha 8 at every rank: by α/r, and by α/√r
    *((arm("lora", ALL, r, alpha=8.0), lr) for r, lr in ((1, 0.0025), (16, 0.01))),
    (arm("lora", ALL, 4, alpha=8.0, rank_stabilized=True), 0.005),
    *((arm("lora_fa", QV, r), lr) for r, lr in ((4, 0.1), (16, 0.02), (64, 0.005))),
    *((arm("lora_fa", ALL, r), lr) for r, lr in ((4, 0.02), (16, 0.01), (64, 0.00125))),
    *((arm("vera", QV, r), lr) for r, lr in ((16, 0.4), (64, 0.4), (256, 0.2))),
    *((arm("vera", V, r), lr) for r, lr in ((16, 0.2), (64, 0.8), (256, 0.4))),
    *((arm("vera", ALL, r), lr) for r, lr in ((64, 0.2), (256, 0.1))),
    (arm("delta_lora", QV, 4, **PUBLISHED), 0.005),
    (arm("delta_lora", ALL, 2, **PUBLISHED), 0.0025),
    (arm("lora_plus", QV, 4), 0.005),
    (arm("lora_plus", ALL, 2), 0.00125),
]
TURNS, STEPS = 13, 15
FAR = 0.5  # "far less" is at most this share
COSTS = {  # name in a row -> label, unit
    "total": ("MiB held in a step: weights, gradients, optimizer, kept for backward", 2**20),
    "adapter": ("KiB of the adapter's file", 2**10),
    "seconds": ("ms of one processor a step", 1e-3),
}

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """The bytes and seconds of every arm, and the first grid of its rates."""
    arms = [cell for cell, _ in ARMS]
    return [
        *({"kind": "bytes", **cell} for cell in arms),
        {"kind": "seconds", "arms": arms, "turns": TURNS, "steps": STEPS, "seed": 0},
        *(run for cell, middle in ARMS
          for run in common.first_grid({"kind": "learn", **cell, "steps": 150}, middle)),
    ]  # fmt: skip


def then(records: list[Record]) -> list[Cell]:
    """Wider grids."""
    return common.searched(common.by_kind(records)["learn"])


def quick() -> list[Cell]:
    """Short ones of each kind but seconds."""
    short = {"train_size": 40, "steps": 4, "lr": 0.01, "seed": 0}
    return [
        {"kind": "bytes", **arm("vera", V, 4)},
        {"kind": "learn", **arm("delta_lora", QV, 2, start_step=2), **short},
        {"kind": "learn", **arm("full"), **short},
    ]


# -------------------------------------------------------------------------------------------- runs


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One cell."""
    return {"learn": _words.word_run, "bytes": sizes, "seconds": seconds}[kind](**cell)


def attached(cell: Cell, seed: int = 0) -> Any:
    """The arm on the shipped base."""
    own = (
        {"targets": _words.linears(cell["targets"]), "rank": cell["rank"]} if "rank" in cell else {}
    )
    return attach(the_model("base"), cell["method"], seed=seed, **own, **cell["options"])


def sizes(**cell: Any) -> dict[str, Any]:
    """The ledger's bytes of a step, its peak, and the bytes of the adapter's file."""
    tuned = attached(cell)
    _, _, _, batches = common.setting(0, steps=150)
    predicted = ledger(tuned, batch=largest_batch(batches))
    parts = {name: int(predicted[name]) for name in CATEGORIES}
    return {
        "trainable": trainable_numbers(tuned),
        "adapter": adapter_bytes(tuned),
        **parts,
        "total": sum(parts.values()),
        "peak": int(predicted.peak),
    }


def seconds(arms: list[Cell], turns: int, steps: int, seed: int) -> dict[str, Any]:
    """Processor seconds a step of every arm, in turns on the same batches."""
    _, _, _, batches = common.setting(seed, steps=steps)

    def spent(place):
        tuned = attached(arms[int(place)], seed)
        start = time.process_time()
        train(tuned, batches, steps=steps, lr=1e-4, progress=False)
        return [rounded((time.process_time() - start) / steps)]

    taken = common.in_turns(spent, [str(place) for place in range(len(arms))], turns)
    return {"arms_seconds": list(taken.values())}


# ----------------------------------------------------------------------------------------- summary


def place_of(cell: Cell) -> str:
    """ "r 4 on q and v"."""
    return f"r {cell['rank']} on {'all' if cell['targets'] == ALL else 'q and v'}"


def label(cell: Cell) -> str:
    """The name of an arm, for people: "LoRA r 4, q, v"."""
    title = METHODS[cell["method"]].title
    if not cell.get("rank"):
        return title
    how = cell["options"]
    if "alpha" in how:
        title += f" (alpha {how['alpha']:g}{', by √r' if how.get('rank_stabilized') else ''})"
    return f"{title} r {cell['rank']}, {SHORT[cell['targets']]}"


def summary(records: list[Record]) -> dict[str, Any]:
    """{"arms": label -> its cell, rate, scores, costs; "fronts": cost -> arm -> share of draws}."""
    kinds = common.by_kind(records)
    words = len(tasks.load_task("past").test)
    sizes = {label(r["cell"]): r["result"] for r in kinds["bytes"]}
    (timed,) = kinds["seconds"]
    taken = {
        label(cell): values
        for cell, values in zip(timed["cell"]["arms"], timed["result"]["arms_seconds"], strict=True)
    }
    arms: dict[str, dict[str, Any]] = {}
    hits: dict[str, np.ndarray] = {}
    for runs in common.at_best_rates(kinds["learn"]):
        cell, name = runs[0]["cell"], label(runs[0]["cell"])
        hits[name] = np.mean(
            [_words.hits(r["result"]["test"]["right"], words) for r in runs], axis=0
        )
        arms[name] = {
            "cell": {k: cell.get(k) for k in ("method", "targets", "rank", "options")},
            "lr": cell["lr"],
            "at_an_end": common.at_an_end(cell, kinds["learn"]),
            "exact_match": common.named(runs, "test", "exact_match"),
            "tried": _choice.Tried(common.of_setting(cell, kinds["learn"])),
            "loss": common.named(runs, "test", "loss"),
            **sizes[name],
            "seconds": taken[name],
        }
    drawn = resampled(hits)
    for name, row in arms.items():
        row["words"] = middle(drawn[name])
    return {"arms": arms, "fronts": {cost: fronts(arms, drawn, cost) for cost in COSTS}}


def price(row: dict[str, Any], cost: str) -> float:
    """A row's cost as a number: of seconds the median of the turns."""
    return median(row[cost]) if cost == "seconds" else row[cost]


def fronts(arms, drawn, cost) -> dict[str, float]:
    """Arm -> the share of the bootstrap's draws of words in which nothing cheaper scores as much,
    and nothing that costs the same scores higher.
    """
    prices = {name: price(row, cost) for name, row in arms.items()}
    best, shares = np.full(len(next(iter(drawn.values()))), -np.inf), {}
    for each in sorted(set(prices.values())):  # from the cheapest
        alike = [name for name in arms if prices[name] == each]
        top = np.max([drawn[name] for name in alike], axis=0)
        for name in alike:
            shares[name] = float(np.mean((drawn[name] > best) & (drawn[name] >= top)))
        best = np.maximum(best, top)
    return shares


def gap(ours: dict[str, Any], theirs: dict[str, Any]) -> Estimate:
    """Exact match, ours less theirs, each at its chosen rate."""
    return _choice.gap(ours["tried"], theirs["tried"])


# --------------------------------------------------------------------------------------- questions


def of(arms: dict[str, Any], method: str, targets: str | None = None) -> dict[str, dict[str, Any]]:
    """The arms of a technique with its usual scaling, on these linears or on any."""
    return {
        name: row
        for name, row in arms.items()
        if row["cell"]["method"] == method
        and targets in (None, row["cell"]["targets"])
        and "alpha" not in row["cell"]["options"]
    }


def rivals(arms, ours, theirs, cost) -> list[tuple[str, str, Estimate, float]]:
    """For each arm of `ours`: the cheapest arm of `theirs` that is surely as good, on any choice of
    linears, which both have alike  ->  (our arm, that arm, the gap of exact match, our cost over
    its cost).
    """
    found = []
    for name, row in of(arms, ours).items():
        even = [
            other
            for other, rival in of(arms, theirs).items()
            if as_good(gap(rival, row), MARGIN)[0] == HOLDS
        ]
        if even:
            cheapest = min(even, key=lambda other: price(arms[other], cost))
            share = price(row, cost) / price(arms[cheapest], cost)
            found.append((name, cheapest, gap(row, arms[cheapest]), share))
        else:
            found.append((name, "", Estimate(None, None, 0), math.nan))
    return found


def cheaper_at_equal_quality(arms, ours, theirs, cost, useful=0.5) -> Finding:
    """Does every arm of ours that is of use (at least `useful` exact match) cost less than the
    cheapest of theirs that is surely as good?

    holds: each does. does not hold: none does. cannot tell: some do, or an end of a grid was best.
    """
    pairs = rivals(arms, ours, theirs, cost)
    pairs = [pair for pair in pairs if arms[pair[0]]["exact_match"].mean >= useful]
    told = [pair for pair in pairs if pair[1]]
    cheaper = [pair for pair in told if pair[3] < 1]
    listed = "; ".join(
        f"{name} ({arms[name]['exact_match']:.3f}) needs {100 * (share - 1):+.1f} % beside "
        f"{other} ({arms[other]['exact_match']:.3f})"
        + ("" if as_good(even, MARGIN)[0] == HOLDS else ", which may be better")
        for name, other, even, share in told
    )
    alone = [name for name, other, _, _ in pairs if not other]
    if alone:
        listed += f"; nothing of {METHODS[theirs].title} is surely as good as {', '.join(alone)}"
    ends = [name for pair in told for name in pair[:2] if arms[name]["at_an_end"]]
    if ends or not told or 0 < len(cheaper) < len(told):
        verdict = UNKNOWN
    else:
        verdict = HOLDS if cheaper else FAILS
    return Finding(f"{listed} (n = 5)", verdict)


def _fa_bytes(s):
    return cheaper_at_equal_quality(s["arms"], "lora_fa", "lora", "total")


def _fa_peak(s):
    return cheaper_at_equal_quality(s["arms"], "lora_fa", "lora", "peak")


def _vera_size(s):
    return cheaper_at_equal_quality(s["arms"], "vera", "lora", "adapter")


def _vera_bytes(s):
    return cheaper_at_equal_quality(s["arms"], "vera", "lora", "total")


def _placement(s):
    """LoRA on all linears against LoRA on q and v, and against full fine-tuning."""
    arms = s["arms"]
    small, large = arms["LoRA r 2, all"], arms["Full fine-tuning"]
    verdict, p = as_good(found := gap(small, large), MARGIN)
    other = gap(small, arms["LoRA r 64, q, v"])
    return Finding(
        f"rank 2 on all linears, {small['trainable']:,} numbers, less full fine-tuning's "
        f"{large['trainable']:,}: {shown(found)}; less rank 64 on q and v, "
        f"{arms['LoRA r 64, q, v']['trainable']:,} numbers: {shown(other)}",
        *((UNKNOWN, 1.0) if small["at_an_end"] or large["at_an_end"] else (verdict, p)),
    )


def _bytes_of(method, cost, other="full"):
    """Is the cost of every arm of a technique below the other's? Counted, not sampled."""

    def judge(s):
        arms = s["arms"]
        theirs = price(next(iter(of(arms, other).values())), cost)
        shares = [price(row, cost) / theirs for row in of(arms, method).values()]
        low, high = min(shares), max(shares)
        verdict = HOLDS if high < 1 else FAILS if low >= 1 else UNKNOWN
        name = METHODS[other].title
        text = f"{100 * low:.1f} to {100 * high:.1f} % of {name}'s, over LoRA's arms, counted"
        return Finding(text, verdict)

    return judge


def _time_of(s):
    """Seconds a step of LoRA at rank 4 on q and v against full fine-tuning, turn by turn."""
    arms = s["arms"]
    names = ("LoRA r 4, q, v", "Full fine-tuning", "LoRA r 2, all")
    lora, full = (arms[name]["seconds"] for name in names[:2])
    found = estimate(a / b - 1 for a, b in zip(lora, full, strict=True))
    verdict, p = lower(found, 0.1)
    change = shown(times(100, found), "+.0f", "%")
    one, other, everywhere = (milliseconds(arms[name]) for name in names)
    return Finding(
        f"a step takes {one} ms of a processor (median and quartiles of the turns), {change} "
        f"against full fine-tuning's {other}; with all linears at rank 2 {everywhere}",
        verdict,
        p,
        when="LoRA has rank 4 on q and v" if verdict == HOLDS else "",
    )


def milliseconds(row: dict[str, Any]) -> str:
    """The median of the turns, with their quartiles: "16.2 (15.9 to 17.0)"."""
    low, middle, high = (1e3 * q for q in quantiles(row["seconds"], n=4, method="inclusive"))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _beside_lora(method, judge):
    """Each arm of a technique beside LoRA's of the same rank and linears. Rank 4 on q and v is not
    judged again: `comparison` has the same runs.
    """

    def judged(s):
        arms, said, parts = s["arms"], [], {}
        loras = {(row["cell"]["targets"], row["cell"]["rank"]): row for row in
                 of(arms, "lora").values()}  # fmt: skip
        for row in of(arms, method).values():
            where = row["cell"]["targets"], row["cell"]["rank"]
            found = gap(row, loras[where])
            part = place_of(row["cell"])
            ends = row["at_an_end"] or loras[where]["at_an_end"]
            if where != (QV, 4):
                parts[part] = (UNKNOWN, 1.0) if ends else judge(found, MARGIN)
            said.append(f"{part} {shown(found)}{' (an end of a grid)' if ends else ''}")
        return of_parts("; ".join(said), parts)

    return judged


def _less(s):
    """LoRA's bytes of a step and their peak against full fine-tuning's; counted, arm by arm."""
    arms, said = s["arms"], []
    loras, full = of(arms, "lora"), arms["Full fine-tuning"]
    shares = {name: [row[c] / full[c] for c in ("total", "peak")] for name, row in loras.items()}
    for place, name in enumerate(("all bytes of a step", "their peak")):
        of_cost = [both[place] for both in shares.values()]
        said.append(f"{name}: {100 * min(of_cost):.1f} to {100 * max(of_cost):.1f} %")
    more = [name for name, both in shares.items() if max(both) >= 1]
    far = all(max(both) <= FAR for both in shares.values())
    less = (HOLDS if not more else FAILS) if len(more) in (0, len(shares)) else (
        f"holds, but for {', '.join(more)}"
    )  # fmt: skip
    return Finding(
        f"of full fine-tuning's, over LoRA's arms, counted: {'; '.join(said)}",
        f"less: {less}; far less: {HOLDS if far else FAILS}",
    )


EQUAL = (
    "task, 300 words, batches, 150 steps, seeds; each arm at the rate that validation words chose"
)
ONE_BASE = "Whether it holds on another base, task or width: see bases for two more bases."
QUESTIONS = (
    Question(
        "F2 F4",
        "LoRA-FA needs less memory at the same quality: all bytes of a step",
        f"quality: each LoRA-FA arm beside the cheapest LoRA that is surely as good (95 % interval "
        f"above -{MARGIN} of exact match); both may adapt q and v, or all. Also equal: {EQUAL}",
        "holds: every arm of 0.5 or more needs fewer bytes; does not hold: none does; "
        "else cannot tell",
        "a LoRA of so low a rank that it keeps less, scoring as well",
        f"long rows and large widths, where x outweighs the rest. {ONE_BASE}",
        _fa_bytes,
    ),
    Question(
        "F2 F4",
        "LoRA-FA needs less memory at the same quality: the peak of a step",
        "as above, by the peak of live bytes",
        "as above",
        "as above",
        "as above",
        _fa_peak,
    ),
    Question(
        "V4",
        "VeRA shrinks the adapter, so that many can be stored: bytes of the file, at the same "
        "quality",
        f"quality; both may adapt q and v, v alone, or all. Also equal: {EQUAL}",
        "holds: every VeRA arm of 0.5 or more has a smaller file than the smallest LoRA that is "
        "surely as good; does not hold: none has; else cannot tell",
        "LoRA of rank 1, which is the smallest there is, scoring as well with a smaller file",
        f"ranks below 1 do not exist, so nothing smaller than LoRA of rank 1 was tried. {ONE_BASE}",
        _vera_size,
    ),
    Question(
        "V5 W2",
        "VeRA needs less memory to train: all bytes of a step, at the same quality",
        f"quality, as for the file. Also equal: {EQUAL}",
        "as for the file",
        "that rank 256 keeps fewer bytes for backward than LoRA of rank 1",
        ONE_BASE,
        _vera_bytes,
    ),
    Question(
        "L4",
        "The computational cost falls clearly below that of full fine-tuning: seconds",
        "batches, steps, one thread, in turns; each turn's ratio",
        "holds: the 95 % interval of the time saved lies above 0; does not hold: below 10 %",
        "a step of LoRA that takes 90 % of full's or more",
        "another machine; steps until done, which differ",
        _time_of,
    ),
    Question(
        "L2 L5",
        "A and B are smaller than W: fewer numbers train",
        "the model",
        "counted: holds if every LoRA arm trains fewer numbers than full fine-tuning",
        "a rank near the width",
        "how far is far: the range is given",
        _bytes_of("lora", "trainable"),
    ),
    Question(
        "L6 G1",
        "Far less memory is needed than for full fine-tuning",
        "the batch: the largest of a run, 32 words",
        f"counted, all bytes of a step and their peak; less: every LoRA arm holds fewer bytes than "
        f"full fine-tuning; far less: at most {FAR:g} of them. The range was known when this was "
        "put down",
        "activations outweighing gradients and moments",
        "how much less at a large width: docs/memory.md",
        _less,
    ),
    Question(
        "L2",
        "A change of low rank is enough: rank 2 on all linears against full fine-tuning",
        EQUAL,
        f"as good but for {MARGIN} of exact match",
        "full fine-tuning surely better",
        f"harder tasks and more words. {ONE_BASE}",
        _placement,
    ),
    Question(
        "F5",
        "LoRA-FA's quality stays high: as LoRA's of the same rank and linears",
        EQUAL,
        f"as good but for {MARGIN} of exact match, for each rank and placement",
        "an interval above the margin at every rank and placement",
        f"other ranks. {ONE_BASE}",
        _beside_lora("lora_fa", as_good),
    ),
    Question(
        "P3",
        "LoRA+ is at no loss of quality: as LoRA of the same rank and linears",
        EQUAL + "; ratio 16",
        f"as good but for {MARGIN} of exact match, for each placement",
        "a placement at which it is surely worse",
        ONE_BASE,
        _beside_lora("lora_plus", as_good),
    ),
    Question(
        "D4",
        "Delta-LoRA, as published, improves accuracy over LoRA of the same rank and linears",
        EQUAL + "; λ = 2, W rests for 3 steps of 150",
        f"higher: the interval lies above 0; does not hold: below {MARGIN}; for each placement",
        "an interval above 0 at each placement",
        ONE_BASE,
        _beside_lora("delta_lora", higher),
    ),
)

# --------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """Every arm with its costs and scores; the best rates of each rank and scaling."""
    s = summary(records)
    arms, full = s["arms"], s["arms"]["Full fine-tuning"]
    body = []
    for name, row in arms.items():
        on = [cost for cost, shares in s["fronts"].items() if shares[name] >= 0.5]
        low, high = row["words"]
        body.append(
            [
                name,
                common.rate_of(row),
                f"{row['trainable']:,}",
                f"{row['adapter']:,}",
                f"{row['total']:,}",
                f"{row['peak']:,}",
                milliseconds(row),
                f"{row['exact_match']:.3f}",
                f"{low:.3f} to {high:.3f}",
                ", ".join(on) or "–",
            ]
        )
    head = ["arm", "rate", "numbers", "file, bytes", "step, bytes", "peak, bytes", "ms"]
    head += ["exact match", "by words", "on the front of"]
    rates = [
        [name, f"{scaling(row):g}", common.rate_of(row), f"{row['lr'] / full['lr']:g}"]
        for name, row in arms.items()
        if row["cell"]["method"] == "lora" and row["cell"]["targets"] == ALL
    ]
    second = markdown(["LoRA on all linears", "s", "best rate", "times full's"], rates)
    return f"{markdown(head, body)}\n\n{second}"


def scaling(row: dict[str, Any]) -> float:
    """s of a LoRA arm."""
    how, rank = row["cell"]["options"], row["cell"]["rank"]
    return how.get("alpha", 2 * rank) / (rank**0.5 if how.get("rank_stabilized") else rank)


def figure(records: list[Record], path: Path) -> None:
    """Exact match against three costs: every arm, and the front. Beside it the README's figure,
    headline.png.
    """
    s = summary(records)
    headline(s["arms"], path.with_name("headline.png"))
    with common.panels(path, 16, 6.6, 1, 3, dpi=90, sharey=True) as axes:
        for place, (cost, (name, unit)) in enumerate(COSTS.items()):
            _draw(axes[place], s, cost, name, unit)
        axes[0].set_ylabel("exact match on held-out past tenses")
        handles = axes[0].get_legend_handles_labels()
        note = (
            "Bars: 95 % of a bootstrap over words. Line: the front; filled: on it in at least half "
            "of the draws. Marker's size: v, q and v, all linears."
        )
        axes[0].figure.legend(*handles, loc="outside lower center", ncols=6, title=note)


def _draw(axes, s, cost, label, unit):
    sizes, seen = {V: 6, QV: 9, ALL: 13, None: 13}, set()
    on = s["fronts"][cost]
    looks = plots.looks({row["cell"]["method"]: None for row in s["arms"].values()})
    for name, row in s["arms"].items():
        method = row["cell"]["method"]
        (colour, marker), (low, high) = looks[method], row["words"]
        x, y = price(row, cost) / unit, row["exact_match"].mean
        look = dict(color=colour, marker=marker, ms=sizes[row["cell"]["targets"]], capsize=2)
        look |= {"ls": "none", "elinewidth": 1, "mfc": colour if on[name] >= 0.5 else "white"}
        axes.errorbar(x, y, yerr=[[max(0, y - low)], [max(0, high - y)]], **look)
        if method not in seen:
            seen.add(method)
            label_look = dict(color=colour, marker=marker, ls="none", ms=10)
            axes.plot([], [], label=METHODS[method].title, **label_look)
    best = sorted(
        (price(row, cost) / unit, row["exact_match"].mean)
        for name, row in s["arms"].items()
        if on[name] >= 0.5
    )
    axes.plot(*zip(*best), color="#999999", lw=1.5, drawstyle="steps-post", zorder=1)
    axes.set_xscale("log")
    subs = {"adapter": (1,), "seconds": (1, 1.5, 2, 3, 5)}.get(cost, (1, 2, 4))
    common.plain_log(axes.xaxis, subs=subs, how=",.4g")
    axes.set_xlabel(label, fontsize=10)


TITLE = "What does quality cost: in bytes of a step, bytes of a file, seconds?"
STUDY = Study("cost", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
