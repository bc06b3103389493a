"""The study of Delta-LoRA: the identity that it rests on, what is chosen, what is on record."""

import numpy as np
import pages
import pytest

from studies import common, delta_lora
from studies.delta_lora import ROUNDING, identity

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_from_the_first_step_it_is_lora_rescaled(ratio):
    """To float64's rounding, weight decay and schedule and all: W moved by rank r."""
    found = identity(ratio=ratio, start=0, rank=2, alpha=4.0, steps=5, seed=1)
    assert found["difference"] == ROUNDING
    assert set(found["ranks"]) == {2}


def test_from_a_later_step_it_is_not_and_moves_w_by_twice_the_rank():
    found = identity(ratio=2.0, start=2, rank=2, alpha=4.0, steps=4, seed=1)
    assert found["difference"] > 1e-3
    assert set(found["ranks"]) == {4}


def record(lr, seed, loss, **more):
    cell = {"kind": "x", "lr": lr, "seed": seed, **more}
    result = {"validation": {"exact_match": 0.5, "loss": loss}}
    return {"cell": cell, "result": result, "seconds": 0.0, "made_by": {}}


def test_a_rate_is_chosen_by_the_mean_over_seeds_and_a_diverged_run_never():
    records = [record(0.1, 0, 1.0), record(0.1, 1, 3.0), record(0.2, 0, 0.1), record(0.2, 1, None)]
    records += [record(0.1, 0, 5.0, rank=2), record(0.3, 0, 4.0, rank=2)]
    chosen = common.at_best_rates(records)
    assert [{r["cell"]["lr"] for r in runs} for runs in chosen] == [{0.1}, {0.3}]
    assert [len(runs) for runs in chosen] == [2, 1]


def test_a_run_that_diverges_is_data():
    cell = next(c for c in delta_lora.quick() if c["kind"] == "few")
    with np.errstate(all="ignore"):
        found = delta_lora.run(**{**cell, "lr": 1e30})
    assert found["diverged"] >= 1 and found["exact_match"] == 0
    assert found["validation"]["loss"] is None


def test_the_record():
    records = pages.whole("delta_lora")
    s = delta_lora.summary(records)
    assert s["same"]["largest_difference"] == ROUNDING
    rank = s["same"]["rank"]
    assert (s["same"]["ranks_at_once"], s["same"]["ranks_later"]) == ([rank], [2 * rank])
    for kind in delta_lora.SHOWN:
        assert set(s[kind]["tuned"]) == {"lora", "delta_lora", "published"}
