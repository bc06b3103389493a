"""The comparison: the rates it tries and chooses, who stands on the front, what a verdict needs."""

import pytest

from minilora.lab import rates
from minilora.lab.statistics import Estimate, difference
from minilora.lab.table import markdown
from minilora.lab.tune import GRID
from minilora.methods import DEFAULT
from studies import claims, comparison


def made(cell, match=0.5, loss=1.0):
    """A record of that cell, with numbers of ours."""
    scores = {"exact_match": match, "loss": loss}
    results = {
        "base": {"test": 0.0},
        "cost": {
            "trainable": 100,
            "adapter_bytes": 400,
            "bytes": dict.fromkeys(("weights", "gradients", "optimizer", "activations"), 1000),
        },
        "seconds": {f"{method}_seconds": [0.01, 0.02] for method in DEFAULT},
        "learn": {
            "evaluations": [[15, 2.0], [30, 1.0]],
            "validation": scores,
            "test": scores,
        },
    }
    return {"cell": cell, "result": results[cell["kind"]], "seconds": 1.0, "made_by": {}}


def test_every_method_tries_as_many_rates_of_the_one_grid_on_every_other_task():
    work = [c for c in comparison.cells() if c.get("purpose") == "rate"]
    for method in DEFAULT:
        for task in comparison.TASKS:
            tried = [c["lr"] for c in work if (c["method"], c["task"]) == (method, task)]
            if task == "past":
                assert not tried
                continue
            place = GRID.index(tried[0])
            assert tuple(tried) == GRID[place : place + comparison.TRIED]
            assert rates.read()["chosen"]["past"][method]["lr"] in tried


def test_no_held_out_word_chooses_a_rate():
    assert all(c["score"] == ["validation"] for c in comparison.cells() if c["kind"] == "learn")


def test_the_second_part_runs_at_the_rates_that_validated_best():
    first = [
        made(cell, match=0.9 if i % comparison.TRIED == 3 else 0.5)
        for i, cell in enumerate(c for c in comparison.cells() if c["kind"] == "learn")
    ]
    best = comparison.chosen_rates(first)
    assert len(best) == len(DEFAULT) * len(comparison.TASKS)
    for (task, method), lr in best.items():
        mine = [r for r in first if r["cell"]["method"] == method and r["cell"]["task"] == task]
        wanted = [r["cell"]["lr"] for r in mine if r["result"]["validation"]["exact_match"] == 0.9]
        assert [lr] == (wanted or [rates.read()["chosen"]["past"][method]["lr"]])
    second = comparison.then(first)
    assert len(second) == len(DEFAULT) * (5 * 5 + 2 * 2 * 3)
    assert all(c["lr"] == best[c["task"], c["method"]] and c["score"] == ["test"] for c in second)
    again = comparison.then([*first, *map(made, second)])
    assert again == second, "the second part changes nothing"


def test_of_equal_scores_the_lower_loss_chooses_and_what_diverged_never_does():
    work = [c for c in comparison.cells() if c.get("purpose") == "rate" and c["task"] == "lemma"]
    mine = [c for c in work if c["method"] == "lora"]
    losses = [3.0, 1.0, 2.0, None, None]
    first = [made(c, 0.0, loss) for c, loss in zip(mine, losses)]
    assert comparison.chosen_rates(first)["lemma", "lora"] == mine[1]["lr"]


def test_the_front_is_what_nothing_cheaper_beats():
    def row(cost, mean):
        return {"cost": {"numbers": cost}, "mean": Estimate(mean, 0.0, 1)}

    rows = {
        "a": row(1, 0.5),
        "b": row(2, 0.6),
        "c": row(3, 0.55),
        "d": row(2, 0.59),
        "e": row(4, 0.9),
    }
    assert comparison.front(rows, "numbers") == ["a", "b", "e"]


def test_whole_records_give_table_and_claims():
    first = [made(cell) for cell in comparison.cells()]
    records = [*first, *(made(cell, match=0.8) for cell in comparison.then(first))]
    assert comparison.summary(records)["methods"]["vera"]["mean"] == (pytest.approx(0.8), 0.0, 5)
    assert "0.800 ± 0.000" in comparison.table(records)
    verdicts = [claim.verdict for claim in claims.claims("comparison", records)]
    assert set(verdicts) == {"not seen here"}, "nothing is better, and nothing saved"


def test_a_difference_must_be_more_than_chance():
    """Student's t for five seeds: 2.78 standard errors at 95 %."""
    gaps = [0.01, 0.02, 0.03, 0.04, 0.05]  # mean 0.03, sd 0.0158: 4.2 standard errors
    assert difference(gaps, [0.0] * 5) == (pytest.approx(0.03), pytest.approx(0.01581, rel=1e-3), 5)
    assert difference(gaps, [0.0] * 5).sign == 1
    assert difference([0.0] * 5, gaps).sign == -1
    assert difference([g - 0.012 for g in gaps], [0.0] * 5).sign == 0  # 2.5 of them
    assert difference([0.1] * 5, [0.1] * 5).sign == 0


def test_columns_are_lined_up():
    assert markdown(["a", "bb"], [["ccc", "1"]]) == "| a   | bb |\n| --- | -: |\n| ccc |  1 |"
