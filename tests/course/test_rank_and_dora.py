"""What notebooks 12 and 14 say, against the package, finite differences and a second count."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import minilora as ml
from minilora.gradcheck import GradientError, gradcheck
from minilora_course import EXERCISES
from minilora_course.lessons import dora, rank_targets

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
needs_notebooks = pytest.mark.skipif(
    not NOTEBOOKS.is_dir(), reason="an installed package has no notebooks"
)


@pytest.fixture(scope="module")
def base():
    return ml.load_model("base")


def losses(base, alpha, lr, ratio):
    words = ml.load_task("past").train[:60]
    batches = ml.batches(words, base.tokenizer, batch_size=12, epochs=2)
    tuned = ml.attach(base, "lora_plus", rank=4, alpha=alpha, ratio=ratio)
    return np.array(ml.train(tuned, batches, steps=6, lr=lr).losses)


def test_alpha_is_the_rate_of_b_in_the_packages_optimizer(base):
    """Four times alpha and a quarter of B's rate: the same losses. Both rates: not from step 3."""
    first = losses(base, 8, 0.01, 1.0)
    assert np.allclose(losses(base, 32, 0.01, 0.25), first, rtol=1e-4)
    rule = losses(base, 32, 0.0025, 1.0)
    assert np.allclose(rule[:2], first[:2], rtol=1e-4) and abs(rule[2] / first[2] - 1) > 0.01


def test_the_twin_of_the_check_trains_as_before_and_its_descent_is_adam():
    """One step of its Adam, from elsewhere than B = 0, moves each number by its rate."""
    for seed in range(5):
        for case in EXERCISES["rank_twin"].drawn(seed):
            made = rank_targets.with_twin(rank_targets.twin)(*case.args.values())
            assert all(map(np.allclose, made, case.true.values()))
    a = {name: value for name, value in case.args.items() if name not in ("c", "B")}
    B = np.random.default_rng(0).normal(size=case.args["B"].shape)
    start, after, _ = rank_targets.trained(**a, B=B).values()
    dW = (a["x"] @ start.T - a["t"]).T @ a["x"]  # from the dense ΔW, by another way
    A1 = a["A"] - a["rate_A"] * np.sign(B.T @ dW)
    B1 = B - a["rate_B"] * np.sign(dW @ a["A"].T)
    assert np.allclose(after, a["s"] * B1 @ A1)


def test_ranks_of_one_budget_train_equal_numbers_up_to_a_tenth(base):
    places = {10: ("q_proj", "v_proj"), 3: ("gate_proj", "up_proj", "down_proj"), 2: "all-linear"}
    counts = []
    for rank, targets in places.items():
        tuned = ml.attach(base, "lora", rank=rank, targets=targets)
        counts.append(sum(a.size for a in tuned.trainable.values()))
        sides = np.array([base.params[f"{name}.weight"].shape for name in tuned.layers])
        assert rank_targets.of_budget(sides, 18_000)["rank"] == rank
    assert counts[0] == 17_920 and max(counts) < 1.1 * min(counts)


def dora_args(seed=0):
    return EXERCISES["dora_norm"].drawn(seed)[0].args


def test_doras_constant_and_the_rest_are_the_whole_derivative_and_the_constant_alone_is_not():
    args = {name: value for name, value in dora_args().items() if name != "dy"}

    def forward(x, W, s, A, B, m):
        return dora.forward(x, W, s, A, B, m)["y"], (x, W, s, A, B, m)

    def backward(rest):
        def grads(dy, cache):
            out = dora.backward(dy, *cache)
            more = dora.left_out(dy, *cache)
            dA, dB = (out[name] + rest * more[name] for name in ("dA", "dB"))
            return out["dx"], None, None, dA, dB, out["dm"]

        return grads

    gradcheck(forward, backward(1), *args.values(), frozen=("W",))
    with pytest.raises(GradientError, match="dA is wrong"):
        gradcheck(forward, backward(0), *args.values(), frozen=("W",))


def test_what_the_constant_leaves_out_lies_along_the_rows_of_v():
    """dV of the norm's way is minus the projection of the other dV on each row."""
    a = dora_args(1)
    V = a["W"] + a["s"] * a["B"] @ a["A"]
    size = np.linalg.norm(V, axis=1, keepdims=True)
    dV = (a["dy"] * a["m"] / size.T).T @ a["x"]
    along = -(V / size) * (V / size * dV).sum(1, keepdims=True)
    assert np.allclose(dora.left_out(**a)["dA"], a["s"] * a["B"].T @ along)
    assert np.allclose(dora.left_out(**a)["dB"], a["s"] * along @ a["A"].T)


def test_dora_keeps_u_and_the_norms_beside_what_lora_keeps(base):
    kept = [ml.ledger(ml.attach(base, n, rank=4), 32, 25).activations for n in ("dora", "lora")]
    outputs = sum(len(base.params[f"{name}.weight"]) for name in ml.attach(base, "lora").layers)
    assert kept[0] - kept[1] == 4 * (32 * 25 + 1) * outputs == 2_460_672


# ---------------------------------------------------------------- what the notebooks say of a run


def printed(name):
    """All that the cells of a committed notebook print, and its text."""
    cells = json.loads((NOTEBOOKS / "solutions" / f"{name}.ipynb").read_text("utf-8"))["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", ())]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return "".join("".join(out.get("text", "")) for out in outputs), text


@needs_notebooks
def test_the_text_of_12_says_what_its_run_printed():
    lines, text = printed("12_rank_targets")
    said = dict(re.findall(r"^(.* less .*): [+-].*: (.*)$", lines, re.M))
    both = "all linears at {0:,} less q and v at {1:,}".format
    better = {both(9_000, 9_000), both(9_000, 36_000)}
    better |= {"all linears at 18,000 less the MLP at 18,000"}
    assert len(said) == 8
    assert {pair for pair, verdict in said.items() if verdict.startswith("all linears")} == better
    assert {said[pair] for pair in said.keys() - better} == {"cannot tell"}
    assert "all linears are better than q and v at 9,000; at 18,000 and 36,000 we cannot" in text
    assert "9,000 numbers on all linears are better than 36,000 on q and v" in text
    assert "an end of the grid" not in lines  # each best rate lies inside


@needs_notebooks
def test_the_text_of_14_says_what_its_run_printed():
    lines, text = printed("14_dora")
    said = dict(re.findall(r"^(DoRA less .*?): [+-].*: (.*)$", lines, re.M))
    wanted = {"LoRA": "DoRA is better", "LoRA, rank 5": "cannot tell", "whole": "cannot tell"}
    assert said == {f"DoRA less {other}": verdict for other, verdict in wanted.items()}
    assert "Compared with LoRA of rank 5, which has more numbers than DoRA, we cannot tell" in text
    (gap,) = re.findall(r"DoRA less LoRA: \+(.*) points", lines)
    assert 1.5 < float(gap) < 2.5 and "by about two points" in text
    (most,) = re.findall(r"of B's \d+% to (\d+)%", lines)
    assert 45 <= int(most) < 60 and "about half of $B$'s gradient" in text
    assert "an end of the grid" not in lines
