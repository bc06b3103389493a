"""LoRA: how much rank a change needs, in which directions it lies, which weights to adapt.

`teacher`: one linear of the base, and a teacher whose weight is of known rank r* away from it. LoRA
of rank r cannot come nearer than the best rank-r matrix, and the Eckart-Young theorem says how near
that is: the elbow stands at r*. This checks that LoRA reaches the optimum; it says nothing of what
ranks real tasks need. `cut` asks that: full fine-tuning's own change, each linear's cut to its best
matrix of rank r. `words`: the past tense at several ranks and rates; and how much ΔW
amplifies what W has in its directions. `pair`: two such runs from different seeds, how far their
directions agree, less what chance gives. `budget`: one number of trainable numbers, spent on
different weights.

Source: Hu et al. 2021, arXiv:2106.09685, section 7: tables 5 to 7, figures 3 and 4.
"""

from pathlib import Path
from typing import Any

import numpy as np

from minilora.lab.cells import Cell, Record, grid
from minilora.lab.runs import the_model, trainable_numbers
from minilora.lab.statistics import estimate, rounded
from minilora.lab.table import markdown
from minilora.llama.model import Llama
from minilora.methods import METHODS
from minilora.methods.lora import lora_backward, lora_forward
from minilora.support import plots
from minilora.text import tasks
from minilora.text.score import exact_match
from minilora.tuning.adapters import attach
from minilora.tuning.optim import AdamW, learning_rate

from . import Study, common
from ._question import MARGIN, Finding, Question, shown
from ._verdicts import FAILS, HOLDS, as_good, difference

MIDDLES = {4: 0.02, 8: 0.01, 64: 0.0025}  # of the first grids on q and v, by rank
BUDGET_MIDDLE = 0.01
CUTS = (1, 2, 4, 8, 16, 32, 64)  # ranks that full fine-tuning's change is cut to
CUT_RANK = 8  # of the verdict: a sixteenth of the width
KNOWN, RANKS = (2, 4, 8), (1, 2, 3, 4, 6, 8, 12, 16)
PLACES = (1, 2, 4, 8, 16, 32, 64)  # j of φ(i, j)
COMMON = {"task": "past", "train_size": 300, "steps": 100}
BUDGET = {  # targets -> the rank whose trainable numbers come nearest to 4 · 4576
    **{"q": 18, "k": 24, "v": 24, "o": 18, "q v": 10, "q k v o": 5},
    **{"gate up down": 3, "q k v o gate up down": 2},
}
LAYER = "model.layers.0.self_attn.q_proj.weight"  # the teacher's

# ------------------------------------------------------------------------------------------- cells


def cells() -> list[Cell]:
    """Every run but the pairs."""
    words = {"kind": "words", **COMMON}
    settings = [("q v", rank, middle) for rank, middle in MIDDLES.items()]
    settings += [(targets, rank, BUDGET_MIDDLE) for targets, rank in BUDGET.items()]
    on_words = [
        cell
        for targets, rank, middle in settings
        for cell in common.first_grid({**words, "targets": targets, "rank": rank}, middle)
    ]
    teacher = grid(kind="teacher", known=KNOWN, rank=RANKS, steps=400, lr=0.02, seed=(0, 1, 2))
    cut = grid(kind="cut", task="past", train_size=300, steps=150, lr=0.0005, seed=range(5))
    return [*teacher, *on_words, *cut]


def then(records: list[Record]) -> list[Cell]:
    """Wider grids; and pairs of seeds at the chosen rates, after training and before."""
    words = common.by_kind(records)["words"]
    cells = [runs[0]["cell"] for runs in common.at_best_rates(words)]
    rates = {cell["rank"]: cell["lr"] for cell in cells if cell["targets"] == "q v"}
    seeds = {"seeds": [[0, 10], [1, 11], [2, 12]]}
    return common.searched(words) or [
        cell
        for steps in (COMMON["steps"], 0)
        for ranks in ([8, 64], [64, 64])
        for cell in grid(
            **{"kind": "pair", **COMMON, "steps": steps, "ranks": [ranks]},
            **{"rates": [[rates[rank] for rank in ranks]], **seeds},
        )
    ]


def quick() -> list[Cell]:
    """Short ones of each kind."""
    short = {**COMMON, "train_size": 40, "steps": 4}
    return [
        *grid(kind="teacher", known=2, rank=(1, 2), steps=60, lr=0.05, seed=0),
        *grid(kind="words", **short, lr=0.01, seed=0, targets="q k v o", rank=2),
        *grid(kind="pair", **short, seeds=[[0, 1]], ranks=[[2, 4]], rates=[[0.01, 0.01]]),
    ]


def run(kind: str, **cell) -> dict[str, Any]:
    """One of the kinds above."""
    kinds = {"teacher": known_rank, "words": words_run, "pair": pair_run, "cut": cut_run}
    return kinds[kind](**cell)


# --------------------------------------------------------------------------- a change of known rank


def known_rank(known: int, rank: int, steps: int, lr: float, seed: int) -> dict[str, float]:
    """The squared distance from the teacher that LoRA leaves, and that the best matrix of its rank
    leaves by the Eckart-Young theorem; both as shares of ‖Δ‖², Δ of rank `known` as large as W.

    The inputs are white, XᵀX = M·1, so that the mean squared error is the squared distance of the
    weights.
    """
    rng = np.random.default_rng((seed, known))
    W = the_model("base").params[LAYER].astype(np.float64)
    change = teacher(rng, W, known)
    X = white(rng, 2 * W.shape[1], W.shape[1])
    goal = X @ (W + change).T
    lora = METHODS["lora"]
    arrays = lora.init(W, rank, {"alpha": rank, "rank_stabilized": False}, rng, {})
    adam = AdamW({"A": arrays["A"], "B": arrays["B"]}, betas=(0.9, 0.98))
    for step in range(1, steps + 1):
        y, cache = lora_forward(X, W, **arrays)
        _, _, _, dA, dB, *_ = lora_backward((y - goal) / len(X), cache)
        rate = learning_rate(step, lr=lr, steps=steps, schedule="linear", warmup=steps // 10)
        adam.step({"A": dA, "B": dB}, rate)
    left = np.sum((change - lora.delta(**arrays)) ** 2)
    return {
        "error": rounded(float(left / np.sum(change**2))),
        "best": rounded(best_of_rank(change, rank)),
    }


def teacher(rng: np.random.Generator, W: np.ndarray, known: int) -> np.ndarray:
    """Δ, a random product of rank `known`, as large as W."""
    change = rng.standard_normal((len(W), known)) @ rng.standard_normal((known, W.shape[1]))
    return change * np.linalg.norm(W) / np.linalg.norm(change)


def white(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """X (rows, columns) with XᵀX = rows · 1."""
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0] * np.sqrt(rows)


def best_of_rank(change: np.ndarray, rank: int) -> float:
    """The share of ‖Δ‖² that the best matrix of that rank leaves: the singular values after it.
    Those that are only rounding differ between machines; they count as 0, as in matrix_rank.

    Source: Eckart & Young 1936, Psychometrika 1, 211-218.
    """
    values = np.linalg.svd(change, compute_uv=False)
    values[values < values[0] * max(change.shape) * np.finfo(values.dtype).eps] = 0
    return float(np.sum(values[rank:] ** 2) / np.sum(values**2))


# ------------------------------------------------------------------------ directions, amplification
# Source: Hu et al. 2021, arXiv:2106.09685, sections 7.2 (equation 4) and 7.3 (table 7).


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """φ(i, j) = ‖U_iᵀ V_j‖² / min(i, j) for all i, j from 1, of the first i and j columns.

    one (d, m), other (d, n), orthonormal columns  ->  (m, n), each between 0 and 1.
    """
    overlaps = np.cumsum(np.cumsum((one.T @ other) ** 2, axis=0), axis=1)
    i, j = np.indices(overlaps.shape) + 1
    return overlaps / np.minimum(i, j)


def by_chance(m: int, n: int, d: int) -> np.ndarray:
    """(m, n): the mean φ(i, j) of random subspaces of d dimensions: max(i, j) / d.

    Two random unit vectors have a squared product of 1/d on average, and φ adds i·j of them.
    """
    i, j = np.indices((m, n)) + 1
    return np.maximum(i, j) / d


def directions(matrix: np.ndarray, count: int) -> np.ndarray:
    """(O, I) -> (I, count): the right singular vectors, the largest first."""
    return np.linalg.svd(matrix, full_matrices=False)[2][:count].T


def amplification(change: np.ndarray, W: np.ndarray, rank: int) -> dict[str, float]:
    """‖ΔW‖ / ‖Uᵀ W V‖, how much the change adds to what W has in its directions: U, V of ΔW's
    `rank` largest singular values, and ‖Uᵀ W V‖ with W's own ones beside it.
    """
    norm = float(np.linalg.norm(change))
    U, _, Vt = np.linalg.svd(change, full_matrices=False)
    in_directions = float(np.linalg.norm(U[:, :rank].T @ W @ Vt[:rank].T))
    own = np.linalg.svd(W, compute_uv=False)[:rank]
    return {
        "change": norm,
        "weight": in_directions,
        "weight_own": float(np.linalg.norm(own)),
        "factor": norm / in_directions,
    }


# --------------------------------------------------------------------------------------- the words


def learned(words, targets, rank, steps, lr, seed):
    """LoRA after so many steps on the words; targets: "q v"."""
    names = [f"{name}_proj" for name in targets.split()]
    tuned = attach(the_model("base"), "lora", rank=rank, targets=names, seed=seed)
    if steps:
        common.learn(tuned, words.train, lr=lr, steps=steps, seed=seed)
    return tuned


def words_run(task, train_size, **how) -> dict[str, Any]:
    """One run: scores, and the amplification of each kind of linear, mean over the layers."""
    words = tasks.select(task, train_size)

    def work():
        tuned = learned(words, **how)
        amplified: dict[str, list] = {}
        for layer in tuned.layers:
            W = tuned.base.params[f"{layer}.weight"].astype(np.float64)
            of_layer = amplification(tuned.delta(layer), W, tuned.rank)
            amplified.setdefault(_kind_of(layer), []).append(of_layer)
        means = {
            kind: {name: rounded(float(np.mean([one[name] for one in all]))) for name in all[0]}
            for kind, all in amplified.items()
        }
        numbers = {"trainable": trainable_numbers(tuned), "amplification": means}
        return {**numbers, **common.scores(tuned, words)}

    return common.or_diverged(work, words)


def _kind_of(layer):
    """model.layers.0.self_attn.q_proj -> q."""
    return layer.rsplit(".", 1)[-1].removesuffix("_proj")


def cut_run(task, train_size, steps, lr, seed) -> dict[str, Any]:
    """Exact match of full fine-tuning, and with the change of every linear cut to its best matrix
    of each rank; embeddings and norms keep what they learned.
    """
    words = tasks.select(task, train_size)
    base = the_model("base")
    tuned = attach(base, "full", seed=seed)
    common.learn(tuned, words.train, lr=lr, steps=steps, seed=seed)
    whole = {name: np.asarray(array) for name, array in tuned.weights.items()}
    found = {"whole": rounded(exact_match(tuned, words.test)), "cut": {}}
    changes = {
        name: np.linalg.svd(whole[name].astype(np.float64) - base.params[name], full_matrices=False)
        for name in whole
        if name.endswith("_proj.weight")
    }
    for rank in (0, *CUTS):
        cut = dict(whole)
        for name, (U, values, Vt) in changes.items():
            change = (U[:, :rank] * values[:rank]) @ Vt[:rank]
            cut[name] = (base.params[name] + change).astype(np.float32)
        model = Llama(base.config, {**base.params, **cut}, base.tokenizer)
        found["cut"][str(rank)] = rounded(exact_match(model, words.test))
    return found


def pair_run(task, train_size, seeds, ranks, rates, steps) -> dict[str, Any]:
    """φ(i, j) of two runs' A, as the paper's, and of their ΔW: mean over the layers, by kind."""
    words = tasks.select(task, train_size)
    one, other = (
        learned(words, "q v", rank, steps, lr, seed) for seed, rank, lr in zip(seeds, ranks, rates)
    )
    phi: dict[str, dict[str, list]] = {"A": {}, "change": {}}
    for layer, arrays in one.layers.items():
        matrices = {"A": (arrays["A"], other.layers[layer]["A"])}
        if steps:
            matrices["change"] = (one.delta(layer), other.delta(layer))
        for name, (a, b) in matrices.items():
            both = directions(a, ranks[0]), directions(b, ranks[1])
            phi[name].setdefault(_kind_of(layer), []).append(similarity(*both))
    places = [j - 1 for j in PLACES if j <= ranks[1]]
    return {
        name: {
            kind: [[rounded(float(v)) for v in row] for row in np.mean(all, axis=0)[:8, places]]
            for kind, all in kinds.items()
        }
        for name, kinds in phi.items()
    }


# --------------------------------------------------------------------------- summary, table, figure


def summary(records: list[Record]) -> dict[str, Any]:
    """{"teacher": r* -> r -> …, "budget": targets -> …, "ranks": r -> …, "similarity": … -> …}."""
    kinds, budget, ranks = common.by_kind(records), {}, {}
    for runs in common.at_best_rates(kinds["words"]):
        cell = runs[0]["cell"]
        row = common.row_of(runs, kinds["words"], "exact_match", "test_loss")
        if BUDGET.get(cell["targets"]) == cell["rank"]:
            budget[cell["targets"]] = {"rank": cell["rank"], **row}
        else:
            amplified = [run["result"]["amplification"] for run in runs]
            ranks[cell["rank"]] = row | {
                "amplification": {
                    kind: {
                        name: estimate(of_run[kind][name] for of_run in amplified)
                        for name in ("factor", "change", "weight", "weight_own")
                    }
                    for kind in cell["targets"].split()
                }
            }
    teachers: dict[int, dict] = {}
    shapes = common.grouped(kinds["teacher"], lambda cell: (cell["known"], cell["rank"]))
    for (known, rank), runs in shapes.items():
        row = {k: estimate(run["result"][k] for run in runs) for k in ("error", "best")}
        teachers.setdefault(known, {})[rank] = row
    similarities = _similarities(kinds["pair"])
    wholes = [run["result"]["whole"] for run in kinds["cut"]]
    cuts = {
        rank: {
            "exact_match": common.named(kinds["cut"], "cut", str(rank)),
            "less_whole": difference((r["result"]["cut"][str(rank)] for r in kinds["cut"]), wholes),
        }
        for rank in (0, *CUTS)
    }
    parts = {"budget": budget, "ranks": ranks, "similarity": similarities}
    return {"teacher": teachers, **parts, "cut": cuts, "whole": estimate(wholes)}


def _similarities(records):
    """ "8, 64" -> "A", "change", "untrained A" -> q, v -> φ(i, i) less chance, i = 1, 2, 4, 8."""
    similarities: dict[str, dict] = {}
    width = the_model("base").config.hidden_size
    pairs = common.grouped(records, lambda cell: (*cell["ranks"], cell["steps"] > 0))
    for (one, other, trained), runs in pairs.items():
        of_pair = similarities.setdefault(f"{one}, {other}", {})
        chance = by_chance(one, other, width)
        for name, kinds in runs[0]["result"].items():
            of_pair[name if trained else f"untrained {name}"] = {
                kind: {
                    i: estimate(
                        run["result"][name][kind][i - 1][PLACES.index(i)] - chance[i - 1, i - 1]
                        for run in runs
                    )
                    for i in PLACES
                    if i <= min(8, one, other)
                }
                for kind in kinds
            }
    return similarities


def _intrinsic(s):
    found = s["cut"][CUT_RANK]["less_whole"]
    verdict, p = as_good(found, MARGIN)
    said = "; ".join(f"rank {r}: {row['exact_match']:.3f}" for r, row in s["cut"].items())
    return Finding(f"cut to rank {CUT_RANK} less all of it: {shown(found)}; {said}", verdict, p)


def _reaches(s):
    errors = {k: {r: row["error"] for r, row in of.items()} for k, of in s["teacher"].items()}
    worst = max(e for k, row in errors.items() for r, e in row.items() if r >= k)
    return Finding(
        f"a known change of rank {', '.join(map(str, errors))} is met from that rank on: what is "
        f"left is at most {worst:.1e|.0e} of it (n = {worst.n})",
        HOLDS if worst.mean < 1e-3 else FAILS,
    )


QUESTIONS = (
    Question(
        "L2",
        "The change that a task needs is of low rank: full fine-tuning's own change",
        "the trained weights, the words; embeddings and norms keep their change",
        f"every linear's change cut to rank {CUT_RANK}, a sixteenth of the width: as good but for "
        f"{MARGIN} of exact match",
        "a score that falls with the cut",
        "that another change of lower rank would do: cutting afterwards is the harder test. Rank 0 "
        "shows what embeddings and norms do alone",
        _intrinsic,
    ),
    Question(
        "L2",
        "LoRA of rank r finds a change of rank r (Eckart and Young): optimisation, not tasks",
        "one linear, white inputs",
        "holds: less than a thousandth of the change is left from its rank on",
        "a larger rest",
        "what rank a task needs: that is the row above",
        _reaches,
    ),
)


def table(records: list[Record]) -> str:
    """Known rank; budget; amplification; similarity."""
    s = summary(records)
    teachers = [
        [f"{known}: {name}", *(f"{rows[rank][key].mean:.3f}" for rank in RANKS)]
        for known, rows in s["teacher"].items()
        for name, key in (("LoRA", "error"), ("the best of that rank", "best"))
    ]
    budget = [
        [targets, row["rank"], f"{row['trainable']:,}", *common.rate_and_scores(row)]
        for targets, row in s["budget"].items()
    ]
    ranks = [
        [
            f"{kind}_proj, r = {rank}",
            *(f"{amplified[name]:.2f}" for name in ("change", "weight", "factor")),
            *common.rate_and_scores(row),
        ]
        for rank, row in s["ranks"].items()
        for kind, amplified in row["amplification"].items()
    ]
    alike = [
        [f"ranks {pair}: {title}, {kind}_proj", *(f"{value:.3f}" for value in values.values())]
        for pair, titles in s["similarity"].items()
        for title, kinds in titles.items()
        for kind, values in kinds.items()
    ]
    end = ["rate", "exact match", "loss"]
    cut = [
        [rank, f"{row['exact_match']:.3f}", shown(row["less_whole"])]
        for rank, row in s["cut"].items()
    ]
    cut_head = ["full fine-tuning cut to rank", "exact match", f"less all of it, {s['whole']:.3f}"]
    tables = [
        markdown(cut_head, cut),
        markdown(["r* of the teacher", *(f"r = {rank}" for rank in RANKS)], teachers),
        markdown(["adapted", "rank", "trainable", *end], budget),
        markdown(["", "‖ΔW‖", "‖Uᵀ W V‖", "amplification", *end], ranks),
        markdown(["φ(i, i) less chance", "i = 1", "i = 2", "i = 4", "i = 8"], alike),
    ]
    return "\n\n".join(tables) + "\n"


def figure(records: list[Record], path: Path) -> None:
    """The elbow; agreement beyond chance; one budget on different weights."""
    s = summary(records)
    ratios = (1.1, 1, 1)
    with common.panels(path, 15, 5.4, 1, 3, width_ratios=ratios) as (elbow, alike, budget):
        _draw_teacher(elbow, s["teacher"])
        _draw_similarity(alike, s["similarity"]["8, 64"])
        titles = {t: "all" if t.count(" ") > 4 else t for t in s["budget"]}
        names = [f"{titles[t]}, r = {row['rank']}" for t, row in s["budget"].items()]
        matches = [row["exact_match"] for row in s["budget"].values()]
        common.scores_by_name(budget, names, matches, plots.LOOKS["lora"])
        budget.set_title("One budget (bars: sd of 5 seeds)", fontsize=12)


def _draw_teacher(axes, teachers):
    colour, _ = plots.LOOKS["lora"]
    for (known, rows), marker in zip(teachers.items(), "osD"):
        look = dict(color=colour, marker=marker, ls="none", mfc="white", mew=2)
        errors, best = ([row[key].mean for row in rows.values()] for key in ("error", "best"))
        axes.plot(list(rows), errors, label=f"r* = {known}", **look)
        axes.plot(list(rows), best, color=colour, lw=1.2)
    axes.plot([], [], color=colour, lw=1.2, label="best of rank r")
    axes.set_xticks(list(next(iter(teachers.values()))))
    axes.set(xlabel="rank r of LoRA", ylabel="left of ‖Δ‖², share")
    axes.set_title("A change of known rank r*")
    axes.legend()


def _draw_similarity(axes, titles):
    colour, _ = plots.LOOKS["lora"]
    for title, kind, look, ls, label in (
        ("change", "q", (colour, "o"), "-", "ΔW of q_proj"),
        ("change", "v", ("#E69F00", "s"), "-", "ΔW of v_proj"),
        ("untrained A", "q", (plots.INK, "x"), ":", "before training, A"),
    ):
        values = titles[title][kind]
        common.errorbars(axes, values, values.values(), look, ls=ls, capsize=4, label=label)
    axes.axhline(0, color=plots.INK, lw=1)
    axes.set_xticks([1, 2, 4, 8])
    axes.set(xlabel="first i directions of each", ylabel="φ(i, i) less chance")
    axes.set_title("Rank 8 and 64, two seeds (bars: sd of 3 pairs)", fontsize=12)
    axes.legend()


TITLE = "LoRA: how much rank, which directions, which weights"
STUDY = Study("lora", TITLE, cells, quick, run, summary, table, figure, QUESTIONS, then)
