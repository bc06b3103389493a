"""What the notebooks of the techniques say, against the records and the package."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import minilora as ml
from minilora.check import check_pair
from minilora.lab.statistics import estimate
from minilora_course import course

ROOT = Path(__file__).parents[2] / "notebooks" / "src"
if not ROOT.is_dir():
    pytest.skip("an installed package has no notebooks", allow_module_level=True)
TEXTS = {path.stem.partition("_")[0]: path.read_text("utf-8") for path in ROOT.glob("*.py")}


@pytest.fixture(scope="module")
def base():
    return ml.load_model("base")


@pytest.fixture(scope="module")
def batches(base):
    pairs = ml.load_task("past").train[:64]
    return ml.batches(pairs, base.tokenizer, batch_size=8, epochs=2)


@pytest.mark.parametrize("number", TEXTS)
def test_no_label_of_a_figure_shows_its_markup(number):
    """An underscore is a subscript between dollars, or it is not there."""
    labels = re.findall(r'(?:label|title)=r?f?"([^"]*)"', TEXTS[number])
    labels += re.findall(r'set_(?:title|xlabel|ylabel)\(r?f?"([^"]*)"', TEXTS[number])
    for label in labels:
        assert "_" not in re.sub(r"\$.*?\$|\{.*?\}", "", label), label


def test_the_growth_of_the_best_ratio_cannot_be_told():
    """08: the interval of the slope has 0 and the theory's 1; the sign stands up to width 256."""

    def preferred(run):
        steps = np.array(run["result"]["steps"], float)
        a, b = np.where(steps <= 1.05 * np.nanmin(steps))
        logs = np.log10(run["cell"]["rates"])
        return float((logs[b] - logs[a]).mean())

    found = {}  # seed -> width -> the mean logarithm of the ratio
    for run in course.records("lora_plus", kind="layer"):
        found.setdefault(run["cell"]["seed"], {})[run["cell"]["width"]] = preferred(run)
    slopes = [np.polyfit(np.log10([*at]), [*at.values()], 1)[0] for at in found.values()]
    slope = estimate(slopes)
    assert slope.n == 5 and abs(slope.mean - 0.52) < 0.01 and abs(slope.margin - 1.65) < 0.01
    signs = {n: estimate(at[n] for at in found.values()).sign for n in found[0]}
    assert signs == {64: -1, 128: -1, 256: -1, 512: 0}
    text = TEXTS["08"]
    assert "**cannot tell**" in text and "did not follow it" not in text
    assert "evidence against" not in text


def test_the_best_rate_is_not_said_to_fall_with_the_rank():
    """06: of two seeds, on rates a factor of 2 apart, one sees no fall from rank 16 to 64."""
    scores = {}
    for run in course.records("cost", kind="learn", method="vera", targets="q v"):
        cell, seed = run["cell"], run["cell"]["seed"]
        if seed < 2:
            score = run["result"]["validation"]["exact_match"]
            scores.setdefault((cell["rank"], seed), {})[cell["lr"]] = score
    best = {key: max(at, key=at.get) for key, at in scores.items()}
    assert [best[16, 0], best[16, 1]] == [0.2, 0.4] and best[64, 0] == best[64, 1] == 0.4
    text = " ".join(TEXTS["06"].split())
    assert "and falls with the rank: the table" not in text and "**Cannot tell**" in text
    assert "axes.set_xticks(rates_tried" in text  # the ticks are the rates


def test_where_a_gradient_is_zero_nothing_moves_for_every_epsilon(base, batches):
    """07: the claim is about the limit; A stands still in the first step, and the curves agree."""
    wide, found, first = base.astype(np.float64), [], []
    for name, how in (("delta_lora", dict(alpha=8, start_step=0)), ("lora", dict(alpha=24))):
        tuned = ml.attach(wide, name, rank=4, **how)
        start = {key: a.copy() for key, a in tuned.trainable.items() if "lora_A" in key}
        moved = lambda t, start=start: max(abs(t.trainable[k] - a).max() for k, a in start.items())  # noqa: E731
        run = ml.train(
            tuned, batches, steps=5, lr=5e-3, eps=1e-16, evaluate=moved, evaluate_every=1
        )
        found.append(run.losses)
        first.append([value for _, value in run.evaluations][:2])
    assert np.abs(np.subtract(*found)).max() < 1e-9
    assert all(one == 0 < two for one, two in first)
    with pytest.raises(ValueError, match="eps is 0"):
        ml.train(tuned, batches, steps=1, lr=1e-3, eps=0.0)
    assert "in the limit $\\varepsilon \\to 0$" in TEXTS["07"]
    assert "with $\\varepsilon = 0$ and without clipping" not in TEXTS["07"]


def test_a_curve_does_not_show_a_factor_of_a_whole_gradient(base, batches):
    """04: dA without its s gives the right losses, up to rounding. check_pair sees it."""
    record = ml.METHODS["lora"]

    def backward(dy, cache):
        dx, _, _, dA, dB, _ = record.op.backward(dy, cache)
        return dx, None, None, dA / 2, dB, None

    halved = dataclasses.replace(record, op=ml.Op("halved", record.op.forward, backward))
    how = dict(steps=8, lr=2e-2, schedule="linear", warmup=4)
    losses = [ml.train(ml.attach(base, m, rank=4), batches, **how).losses for m in (record, halved)]
    assert np.allclose(*losses, rtol=1e-4) and losses[0] != losses[1]
    rng = np.random.default_rng(0)
    x, W, A, B = (rng.normal(size=n) for n in [(6, 5), (4, 5), (3, 5), (4, 3)])
    assert not check_pair(record.op.forward, backward, x, W, 2.0, A, B, frozen="W")
    assert "your losses and the package's agree" not in TEXTS["04"]


@pytest.mark.parametrize("number", ["04", "05", "06", "07", "08"])
def test_counts_memory_and_convergence_stand_beside_loras(number):
    text = " ".join(TEXTS[number].split())
    assert text.count("course.beside(") == 1
    assert "*Held equal*" in text and "*What would change the verdict*" in text


BESIDE = {  # notebook -> are the seeds' bands of the two losses apart at the end, as its text says?
    "04_lora": (True, "the seeds' bands are apart"),
    "05_lora_fa": (True, "the bands are apart, LoRA-FA of rank 4 is behind"),
    "06_vera": (True, "the seeds' bands are apart"),
    "07_delta_lora": (True, "the seeds' bands are apart"),
    "08_lora_plus": (False, "these three seeds show no difference"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_the_verdict_beside_lora_is_that_of_the_printed_losses(name):
    """Of three values none is farther than 2/√3 standard deviations from their mean."""
    apart, words = BESIDE[name]
    printed = (ROOT.parent / "solutions" / f"{name}.ipynb").read_text("utf-8")
    ends = re.findall(r"loss at the end ([\d.]+) ± ([\d.]+), mean and sd of 3 seeds", printed)
    (a, off_a), (b, off_b) = [map(float, end) for end in ends]
    most, least = (off_a + off_b) * 2 / np.sqrt(3), max(off_a, off_b)
    assert abs(a - b) > most if apart else abs(a - b) < least
    assert words in " ".join(TEXTS[name.partition("_")[0]].split())
