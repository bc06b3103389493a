"""LoRA-FA (Zhang et al. 2023, arXiv:2308.03303): the memory that it needs at an equal rank, and its
corrected gradient. What memory it needs at an equal quality is the question of `cost`.

Memory: the ledger's bytes, which are those that a step really holds. And the corrected gradient of
the paper's 2026 version, dB (A Aᵀ)⁻¹ / s²: by gradient descent and by Adam, on a linear problem
whose steps are known in closed form, and on the words.
"""

from pathlib import Path
from statistics import median
from typing import Any

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.runs import fit, the_model
from minilora.lab.statistics import Estimate, chosen, estimate
from minilora.lab.table import markdown
from minilora.llama.model import ModelConfig
from minilora.llama.shapes import SHAPES
from minilora.memory import ledger
from minilora.methods.lora_fa import corrected_gradient
from minilora.support import plots
from minilora.support.plots import human
from minilora.tuning.adapters import attach
from minilora.tuning.optim import clip_factor, learning_rate
from minilora.tuning.train import gradients, train

from . import Study, _choice, _words, common
from ._linear_fit import solve
from ._question import MARGIN, Finding, Question, of_parts, shown
from ._verdicts import FAILS, HOLDS, UNKNOWN, higher, lower, lowest, times
from .cost import place_of

MIDDLES = {  # (linears, rank): of the first grids, plainly and by the corrected gradient
    ("q v", 4): (0.1, 0.2),
    ("q v", 64): (0.005, 0.005),
    ("all-linear", 4): (0.02, 0.02),
    ("all-linear", 64): (0.00125, 0.00125),
}
TURNS = 13
SGD_RATES = {4: (2.0, 4.0, 8.0, 16.0), 64: (0.5, 1.0, 2.0, 4.0, 8.0)}
ADAM_RATES = [float(10 ** (k / 4)) for k in range(-8, 3)]
LINEAR = ((128, 1), (128, 4), (128, 16), (128, 64), (64, 32), (256, 64), (4096, 8), (4096, 64))
KNOWN_CONDITION = {(4096, 8): 1.12, (4096, 64): 1.6, (256, 64): 7.4}  # measured elsewhere
Q_V, ALL = ["q_proj", "v_proj"], "all-linear"
SEEDS = range(3)  # of gradient descent on the words

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Quality by rank, the corrected gradient, memory, seconds a step."""
    adam, sgd = [], []
    for place, middles in MIDDLES.items():
        for corrected, middle in zip((False, True), middles, strict=True):
            adam += common.first_grid(_cell(*place, corrected), middle)
    for rank, rates in SGD_RATES.items():
        both = _sgd(rank, [False, True], rates)
        sgd += grid(**both, steps=100, words=300, seed=SEEDS)
    return [
        *_linear(LINEAR, range(5)),
        *_memory(),
        *grid(kind="scalar", rank=1, lr=0.02, steps=20, seed=[0, 1, 2]),
        *sgd,
        *adam,
        {"kind": "seconds", "rank": 4, "targets": ALL, "steps": 40, "seed": 0},
    ]


def then(records: list[Record]) -> list[Cell]:
    """Wider grids."""
    return common.searched(common.by_kind(records)["words"])


def quick() -> list[Cell]:
    """One of each kind but seconds, with less to do."""
    return [
        *_linear([(32, 4)], [0]),
        {**_memory()[0], "rank": 2},
        {"kind": "scalar", "rank": 1, "lr": 0.02, "steps": 3, "seed": 0},
        {**_sgd(4, True, 4.0), "steps": 3, "words": 20, "seed": 0},
    ]


def _sgd(rank, corrected, lr) -> Cell:
    return {"kind": "sgd", "rank": rank, "corrected": corrected, "lr": lr}


def _linear(shapes, seeds) -> list[Cell]:
    fixed, cells = {"kind": "linear", "outputs": 32, "tolerance": 0.01, "seed": seeds}, []
    for width, rank in shapes:
        cells += grid(**fixed, width=width, rank=rank, rates=[ADAM_RATES if width <= 256 else []])
    return cells


def _memory() -> list[Cell]:
    both = {"kind": "memory", "method": ["lora", "lora_fa"], "targets": [Q_V, ALL], "dropout": 0.0}
    return [
        *grid(**both, shape="base", rank=[4, 64], rows=32, tokens=29),
        *grid(**both, shape="llama-7b", rank=16, rows=8, tokens=1024),
    ]


def _cell(targets, rank, corrected) -> Cell:
    where = {"targets": targets, "rank": rank, "steps": 150}
    return {"kind": "words", "method": "lora_fa", **where, "options": {"corrected": corrected}}


# -------------------------------------------------------------------------------------------- runs


def run(kind: str, **cell: Any) -> dict[str, Any]:
    """One cell, by its kind."""
    kinds = {"words": _words.word_run, "sgd": sgd, "scalar": scalar, "linear": solve}
    return {**kinds, "memory": memory, "seconds": seconds}[kind](**cell)


def sgd(rank, corrected, lr, steps, words, seed) -> dict[str, float]:
    """Plain gradient descent on the words, clipped and with the schedule of the comparison's AdamW
    ->  the validation and test loss over so many words of each.
    """
    model, settings, data, batches = common.setting(seed, rank=rank, steps=steps)
    tuned = settings.attach(model, "lora_fa", seed, corrected=corrected)
    schedule = dict(steps=steps, schedule=settings.schedule, warmup=settings.warmup)
    for step in range(1, steps + 1):
        _, grads = gradients(tuned, [batches[step - 1]], step)
        factor = clip_factor(grads, settings.clip)
        rate = learning_rate(step, lr=lr, **schedule)
        for name, arrays in tuned.layers.items():
            of_layer = {"B": grads[tuned.key(name, "B")] * factor}
            corrected_gradient(arrays, of_layer, tuned.options)
            arrays["B"] -= arrays["B"].dtype.type(rate) * of_layer["B"]
    parts = {"validation": data.validation[:words], "test": data.test[:words]}
    return {name: common.loss_on(tuned, pairs) for name, pairs in parts.items()}


def scalar(rank, lr, steps, seed) -> dict[str, float]:
    """The largest difference of a loss with and without correction, under AdamW."""
    model, settings, _, batches = common.setting(seed, rank=rank, steps=steps)

    def losses(corrected):
        tuned = settings.attach(model, "lora_fa", seed, corrected=corrected)
        return fit(tuned, batches, settings, lr, schedule="constant", weight_decay=0.0).losses

    plain, corrected = losses(False), losses(True)
    apart = [abs(a - b) / a for a, b in zip(plain, corrected, strict=True)]
    return {"losses_differ_by_share": max(apart), "from": plain[0], "to": plain[-1]}


def memory(shape, method, targets, rank, dropout, rows, tokens) -> dict[str, int]:
    """The ledger's bytes of one step."""
    model = the_model("base") if shape == "base" else ModelConfig(**SHAPES[shape].config_fields())
    how = {"rank": rank, "targets": targets if targets == ALL else tuple(targets)}
    predicted = ledger(model, rows, tokens, method=method, dropout=dropout, **how)
    return {**dict(predicted), "peak": predicted.peak}


def seconds(rank, targets, steps, seed) -> dict[str, float]:
    """Median seconds a step of LoRA and of LoRA-FA in each of several turns on the same batches."""
    model, _, _, batches = common.setting(seed, rank=rank, steps=steps)

    def of_steps(method):
        tuned = attach(model, method, rank=rank, targets=targets, seed=seed)
        return [median(train(tuned, batches, steps=steps, lr=1e-3, progress=False).seconds)]

    taken = common.in_turns(of_steps, ("lora", "lora_fa"), TURNS)
    return {f"{method}_seconds": values for method, values in taken.items()}


# ----------------------------------------------------------------------------------------- summary


def summary(records: list[Record]) -> dict[str, Any]:
    """The numbers of every part that has records."""
    parts = {
        "words": words_summary,
        "sgd": _sgd_summary,
        "scalar": _scalar_summary,
        "linear": _linear_summary,
        "memory": _memory_summary,
        "seconds": _seconds_summary,
    }
    kinds = common.by_kind(records)
    return {kind: part(kinds[kind]) for kind, part in parts.items() if kind in kinds}


def words_summary(records: list[Record]) -> dict[str, dict[str, dict[str, Any]]]:
    """ "plain" and "corrected" -> rank and linears -> the test scores at the chosen rate."""
    names: dict[str, dict[str, dict[str, Any]]] = {}
    for runs in common.at_best_rates(records):
        cell = runs[0]["cell"]
        name = "corrected" if cell["options"]["corrected"] else "plain"
        names.setdefault(name, {})[place_of(cell)] = {
            **common.row_of(runs, records),
            "exact_match": common.named(runs, "test", "exact_match"),
            "loss": common.named(runs, "test", "loss"),
            "tried": _choice.Tried(common.of_setting(cell, records)),
        }
    for place, row in names.get("corrected", {}).items():
        row["less_plain"] = _choice.gap(row["tried"], names["plain"][place]["tried"])
    return names


def _sgd_summary(records):
    """rank -> plain and corrected: the test loss at the rate that validation chose."""
    ranks: dict[int, dict[str, Any]] = {}
    for runs in chosen(records, lowest("validation")):
        cell = runs[0]["cell"]
        loss = estimate(run["result"]["test"] for run in runs)
        name = "corrected" if cell["corrected"] else "plain"
        ranks.setdefault(cell["rank"], {})[name] = {"lr": cell["lr"], "loss": loss}
    return ranks


def _seconds_summary(records):
    """The seconds of LoRA-FA's step as a share of LoRA's, turn by turn."""
    ours, theirs = (records[0]["result"][f"{m}_seconds"] for m in ("lora_fa", "lora"))
    return {"share": estimate(a / b for a, b in zip(ours, theirs, strict=True))}


def _scalar_summary(records):
    return {"largest_share": max(r["result"]["losses_differ_by_share"] for r in records)}


def _linear_summary(records):
    """(width, rank) -> condition of A Aᵀ and steps, over the seeds."""
    shapes = common.grouped(records, lambda cell: (cell["width"], cell["rank"]))
    return {
        shape: {
            key: estimate(run["result"][key] for run in runs)
            for key in runs[0]["result"]
            if all(run["result"][key] is not None for run in runs)
        }
        for shape, runs in shapes.items()
    }


def _memory_summary(records):
    """(shape, "q, v" or "all-linear", rank) -> bytes of LoRA, of LoRA-FA, and the share saved."""

    def place(cell):
        return cell["shape"], ALL if cell["targets"] == ALL else "q, v", cell["rank"]

    places = {}
    for key, runs in common.grouped(records, place).items():
        both = {run["cell"]["method"]: run["result"] for run in runs}

        def saved(*parts, both=both):
            ours, loras = (sum(both[m][part] for part in parts) for m in ("lora_fa", "lora"))
            return 1 - ours / loras

        places[key] = {
            **both,
            "activations_saved": saved("activations"),
            "gradients_and_moments_saved": saved("gradients", "optimizer"),
            "all_saved": saved("weights", "gradients", "optimizer", "activations"),
        }
    return places


# --------------------------------------------------------------------------------------- questions


def _kept(s):
    shares = [row["activations_saved"] for row in s["memory"].values()]
    everything = [row["all_saved"] for row in s["memory"].values()]
    return Finding(
        f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % less kept for backward at equal "
        f"rank, {100 * min(everything):.1f} to {100 * max(everything):.1f} % less of all bytes, by "
        "model, rank and linears; counted",
        HOLDS if min(shares) > 0 else FAILS,
    )


def _efficient(s):
    share = s["seconds"]["share"]
    gain = Estimate(share.mean - 1, share.sd, share.n)
    verdict, p = lower(gain, 0.05)
    text = f"a step at rank 4, all linears, beside LoRA's: {shown(times(100, gain), '+.1f', '%')}"
    return Finding(f"{text}; there is no gradient of A and no moment of it", verdict, p)


def _corrected(s):
    parts, said = {}, []
    for place, row in s["words"]["corrected"].items():
        ends = row["at_an_end"] or s["words"]["plain"][place]["at_an_end"]
        parts[place] = (UNKNOWN, 1.0) if ends else higher(row["less_plain"], MARGIN)
        said.append(f"{place} {shown(row['less_plain'])}{' (an end of a grid)' if ends else ''}")
    return of_parts(f"less plain LoRA-FA, {'; '.join(said)}", parts)


QUESTIONS = (
    Question(
        "F2",
        "LoRA-FA needs less activation memory: at an equal rank",
        "model, rows, rank, linears; no dropout, no recomputation",
        "counted: holds if it keeps fewer bytes for backward in every case",
        "inputs that are kept for another reason, as o_proj's",
        "equal quality, which needs a higher rank: see cost",
        _kept,
    ),
    Question(
        "F3",
        "LoRA-FA's training is simpler and more efficient: the time of a step",
        "batches, rank, linears, one thread, turn by turn",
        "holds: the interval of its time less LoRA's lies below 0; does not hold: above -5 %",
        "a step that takes as long",
        "another machine; the higher rank and the steps that equal quality needs",
        _efficient,
    ),
    Question(
        "–",
        "The corrected gradient of 2026 improves LoRA-FA's quality, under AdamW",
        "words, batches, steps, rank, seeds; each at its own rate",
        f"higher: the interval lies above 0; does not hold: below {MARGIN}; for each rank and "
        "placement",
        "a gain at each of them",
        "gradient descent, where it does help (the table); wider layers",
        _corrected,
    ),
)

# ------------------------------------------------------------------------------- table and figure


def table(records: list[Record]) -> str:
    """Markdown: memory, the corrected gradient."""
    s = summary(records)
    quality = [
        [
            place,
            *(
                f"{s['words'][n][place]['exact_match']:.3f} "
                f"({common.rate_of(s['words'][n][place])})"
                for n in ("plain", "corrected")
            ),
            shown(s["words"]["corrected"][place]["less_plain"]),
        ]
        for place in s["words"]["corrected"]
    ]
    sizes = [
        [
            *place,
            *(human(row[method]["activations"]) for method in ("lora", "lora_fa")),
            *(f"{row[share]:.1%}" for share in ("activations_saved", "all_saved")),
        ]
        for place, row in s["memory"].items()
    ]
    names = ("condition", "sgd_plain", "sgd_corrected", "adam_plain", "adam_corrected")
    steps = [
        [f"{width}, {rank}", *(row.get(name, "–") for name in names)]
        for (width, rank), row in s["linear"].items()
    ]
    descent = [
        [rank, *(f"{row[k]['loss']:.3f|.2g} ({row[k]['lr']:g})" for k in ("plain", "corrected"))]
        for rank, row in s["sgd"].items()
    ]
    of_steps = ["condition of A Aᵀ", "SGD steps", "corrected", "Adam steps", "corrected"]
    of_memory = ["kept by LoRA", "by LoRA-FA", "saved", "of all bytes"]
    tables = [
        (["model", "targets", "rank", *of_memory], sizes),
        (["rank, linears", "LoRA-FA (rate)", "corrected (rate)", "corrected less plain"], quality),
        (["width, rank", *of_steps], steps),
        (["rank", "test loss by SGD (rate)", "corrected (rate)"], descent),
    ]
    return "\n\n".join(markdown(head, body) for head, body in tables)


def figure(records: list[Record], path: Path) -> None:
    """Left: bytes kept for backward. Right: what the corrected gradient does for gradient descent
    and for Adam.
    """
    s = summary(records)
    with common.panels(path, 12, 5.2, 1, 2) as (left, right):
        _draw_kept(left, s["memory"])
        _draw_corrected(right, s["linear"])


def _draw_kept(axes, memory):
    """Bytes of saved activations as a share of LoRA's, and the bytes themselves."""
    names = {"base": "word lab", "llama-7b": "Llama-7B"}
    places = [place for place in memory if place[2] in (4, 16)]
    labels = [f"{names[shape]}\n{where}\nrank {rank}" for shape, where, rank in places]
    for k, (method, title) in enumerate((("lora", "LoRA"), ("lora_fa", "LoRA-FA"))):
        for place, key in enumerate(places):
            size, of_lora = (memory[key][m]["activations"] for m in (method, "lora"))
            x, label = place + 0.4 * (k - 0.5), title if place == 0 else None
            axes.bar(x, 100 * size / of_lora, 0.38, color=plots.LOOKS[method][0], label=label)
            ink = "white" if method == "lora" else plots.INK
            axes.text(x, 40, human(size), rotation=90, ha="center", va="center", color=ink)
    axes.set_xticks(range(len(places)), labels, fontsize=11)
    axes.set_ylim(0, 125)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("kept for backward, % of LoRA's")
    axes.set_title("Memory: activations")
    axes.legend(loc="upper center", ncols=2)


def _draw_corrected(axes, linear):
    """Steps with and without, by the condition of A Aᵀ at width 128."""
    rows = {rank: row for (width, rank), row in linear.items() if width == 128}
    for optimizer, colour, title in (("sgd", plots.INK, "SGD"), ("adam", "#E69F00", "Adam")):
        for gradient, line, marker in (("plain", "-", "o"), ("corrected", "--", "s")):
            key = f"{optimizer}_{gradient}"
            steps = {rank: row[key] for rank, row in rows.items() if key in row}
            style = {"ls": line, "capsize": 4, "label": f"{title}, {gradient}"}
            common.errorbars(axes, steps, steps.values(), (colour, marker), **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(rows), [str(rank) for rank in rows])
    axes.set_yscale("log")
    axes.set_xlabel("rank of A (r, 128)")
    axes.set_ylabel("steps to 1 % of the excess loss")
    axes.set_title("Corrected gradient, a linear fit (bars: sd of 5 seeds)")
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(0, 0.62), fontsize=12)


TITLE = "What does LoRA-FA keep at an equal rank, and what does its corrected gradient do?"
STUDY = Study("lora_fa", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
