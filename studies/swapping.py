"""Five adapters on one base, switched back and forth a thousand times: does anything change?

The claim: LoRA's adapters "swap freely without retraining". Hu et al. (arXiv:2106.09685, section
4.2) recover W by subtracting B A and adding another B'A'. Here an adapter stays beside the base, so
that switching touches no array; the subtraction is measured beside it, as the library does it
(added in float64, rounded once) and as it is done in place (float32). The five adapters are those
in data/adapters, one a task of the word lab; a seed is an order of switching.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.markdown import table as markdown
from minilora.lab.spread import mean_sd
from minilora.support import plots

from . import Question, _switching

SWITCHES, SEEDS, WORDS = 1000, tuple(range(5)), 200  # words: held out, of each task
WAYS = {  # how a model gets into an adapter and out of it -> what it is called
    "library": "merged and unmerged, rounded once from float64",
    "in_place": "merged and unmerged in place, float32",
}
COLOURS = {"library": ("#0072B2", "o"), "in_place": ("#D55E00", "s")}


def cells() -> list[Cell]:
    """Switching and merging, an order a seed; bytes; seconds."""
    many = {"switches": SWITCHES, "words": WORDS, "seed": SEEDS}
    return [
        *grid(kind="switch", **many),
        *grid(kind="merge", way=list(WAYS), **many),
        {"kind": "bytes"},
        {"kind": "times", "repeats": 200},
    ]


def quick() -> list[Cell]:
    """Few switches."""
    few = {"switches": 10, "words": 5, "seed": 0}
    return [{"kind": "switch", **few}, *grid(kind="merge", way=list(WAYS), **few)]


def run(kind: str, **cell) -> dict[str, Any]:
    """One cell."""
    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "switch": _switching.switch,
        "merge": _switching.merging,
        "bytes": _switching.sizes,
        "times": _switching.times,
    }
    return kinds[kind](**cell)


# ------------------------------------------------------------------------------------- the answers


def summary(records: list[Record]) -> dict[str, Any]:
    """What changed, over all orders; bytes; seconds."""
    of = {
        kind: [r["result"] for r in records if r["cell"]["kind"] == kind]
        for kind in ("switch", "bytes", "times")
    }
    ways = {}
    for way in WAYS:
        found = [r["result"] for r in records if r["cell"].get("way") == way]
        steps = [point[0] for point in found[0]["drift"]]
        drift = [[result["drift"][i] for result in found] for i in range(len(steps))]
        ways[way] = {
            "drift": {
                step: {
                    "weight": mean_sd(p[1] for p in points),
                    "logit": mean_sd(p[2] for p in points),
                }
                for step, points in zip(steps, drift)
            },
            "scores_changed": sum(_changed(result) for result in found),
            "orders": len(found),
        }
    return {
        "orders": len(of["switch"]),
        "switches_with_other_bits": sum(r["switches_with_other_bits"] for r in of["switch"]),
        "scores_changed": sum(_changed(r) for r in of["switch"]),
        "base_changed": sum(not r["base_is_the_same"] for r in of["switch"]),
        "adapters_changed": sum(not r["adapters_are_the_same"] for r in of["switch"]),
        "copied": sum(r["arrays_of_the_base_that_an_adapter_copied"] for r in of["switch"]),
        "scores": of["switch"][0]["exact_match_after"],
        "ways": ways,
        "bytes": of["bytes"][0],
        "seconds": of["times"][0],
    }


def _changed(result) -> int:
    """Tasks whose exact match is another afterwards."""
    before, after = result["exact_match_before"], result["exact_match_after"]
    return sum(before[name] != after[name] for name in before)


def table(records: list[Record]) -> str:
    """What moved, what it takes, what it weighs."""
    found = summary(records)
    merged = {label: found["ways"][way]["drift"][SWITCHES] for way, label in WAYS.items()}
    still = [
        f"beside the base: `Library.use`, {found['orders']} orders of {SWITCHES:,} switches",
        str(found["switches_with_other_bits"]),
        "0",
        "0",
        str(found["scores_changed"]),
    ]
    moving = [
        [
            f"{label}, {found['ways'][way]['orders']} orders of {SWITCHES:,}",
            "–",
            f"{merged[label]['weight'][0]:.1e} ± {merged[label]['weight'][1]:.0e}",
            f"{merged[label]['logit'][0]:.1e} ± {merged[label]['logit'][1]:.0e}",
            str(found["ways"][way]["scores_changed"]),
        ]
        for way, label in WAYS.items()
    ]
    head = [
        "adapters switched",
        "switches with other logits",
        "a weight moved by",
        "a logit by",
        "scores changed",
    ]
    size, took = found["bytes"], found["seconds"]
    costs = [
        ["`Library.use`", f"{1e6 * took['use_seconds']:.2g} µs"],
        ["unmerge one, merge another", f"{1e3 * took['unmerge_and_merge_seconds']:.2g} ms"],
        ["read an adapter's folder", f"{1e3 * took['load_adapter_seconds']:.2g} ms"],
        ["read a whole model's folder", f"{1e3 * took['load_model_seconds']:.2g} ms"],
        ["one base and five adapters", f"{size['library_bytes']:,} bytes"],
        ["five whole models", f"{size['models_bytes']:,} bytes"],
    ]
    return f"{markdown(head, [still, *moving])}\n\n{markdown(['', ''], costs)}"


# -------------------------------------------------------------------------------------- the figure


def figure(records: list[Record], path: Path) -> None:
    """Drift of a logit against switches, beside the times of a switch."""
    found = summary(records)
    with plots.style():
        canvas = plots.canvas(14, 6)
        left, right = canvas.subplots(1, 2, width_ratios=(1.4, 1))
        for way, label in WAYS.items():
            drift = found["ways"][way]["drift"]
            means, sds = zip(*(row["logit"] for row in drift.values()))
            colour, marker = COLOURS[way]
            style = dict(color=colour, marker=marker, capsize=3)
            left.errorbar(list(drift), means, yerr=sds, label=label, **style)
        left.set_xscale("log")
        left.set_yscale("log")
        left.set_ylim(bottom=left.get_ylim()[0] / 3, top=left.get_ylim()[1] * 8)
        left.set_xlabel("switches")
        left.set_ylabel("largest change of a logit")
        left.set_title("Adapters beside the base change by 0; merging drifts")
        left.legend(loc="upper left")
        _times(right, found["seconds"])
    Path(path).write_bytes(plots.png(canvas))


def _times(axes, took):
    names = {
        "use_seconds": "use another\nadapter",
        "unmerge_and_merge_seconds": "unmerge,\nmerge",
        "load_adapter_seconds": "read an\nadapter",
        "load_model_seconds": "read a whole\nmodel",
    }
    values = [1e3 * took[name] for name in names]
    axes.barh(range(len(values)), values, 0.6, color="#5B8DB8")
    axes.set_yticks(range(len(values)), list(names.values()))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 30)
    for y, value in enumerate(values):
        said = f"{value:.2g} ms" if value > 0.1 else f"{1e3 * value:.2g} µs"
        axes.annotate(said, (value, y), xytext=(6, 0), textcoords="offset points", va="center")
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("milliseconds")
    axes.set_title("Time of a switch")


QUESTION = Question(
    name="swapping",
    title="Five adapters on one base, switched a thousand times: does anything change?",
    cells=cells,
    run=run,
    summary=summary,
    table=table,
    figure=figure,
    quick=quick,
)
