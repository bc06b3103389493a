"""Counts, ledgers and their tables where a number passes a limit."""

import dataclasses
import gc
import re
import tracemalloc
import warnings

import numpy as np
import pytest
from battery import BATCHES, base, tune
from conftest import make_llama

import minilora as ml
from minilora.engine import backward
from minilora.memory import tables
from minilora.memory.count import count
from minilora.memory.saved import Saved
from minilora.memory.step import Ledger, largest

# ---------------------------------------- counts and ledgers


def test_count_warns_of_a_rank_above_the_width():
    config = base().config
    with pytest.warns(UserWarning, match="rank 999 is above"):
        count(config, "lora", rank=999)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert count(config, "full")["rank"] is None
        assert count(config, "lora")["rank"] == ml.METHODS["lora"].default_rank


def test_a_ledger_of_a_model_wants_a_method():
    for model in (base(), base().config):
        with pytest.raises(ValueError, match="ledger: wanted method= for a model without one"):
            ml.ledger(model, 1, 8)


# ---------------------------------------- a ledger


def test_in_mixed_precision_the_parts_add_up_to_the_peak():
    """AdamW keeps 12 bytes a trained number: a master copy and two moments."""
    row = ml.ledger(base().config, 2, 8, method="lora", mixed=True)
    assert row.weights + row.optimizer + row.scratch + row.activations + row.transient == row.peak
    assert row.optimizer == 12 * row.trainable // 2


def test_scratch_is_the_tables_of_64_places_and_the_angles_of_each_row():
    """cos and sin of D/2 = 2 float32 numbers: 16 bytes a place."""
    row = ml.ledger(base().config, 200, 2, method="lora")
    assert row.scratch == 16 * (64 + 200 * 2)


def test_a_vocabulary_of_one_token_is_measured():
    llama = make_llama(dtype="float32", vocab_size=1)
    tuned = ml.attach(llama, "lora")
    assert ml.measure(tuned, 2, 4).activations == ml.ledger(tuned, 2, 4).activations


def test_of_two_measured_steps_the_smaller_peak_counts():
    """A first step that holds 8 MB for a moment does not change what is measured."""
    tuned, calls = tune("lora", base("float32")), []

    def walk(loss):
        calls.append(len(calls) or np.zeros(10**6).size)
        backward(loss)

    assert ml.measure(tuned, 2, 8, walk=walk).peak < 8e6 and len(calls) == 2


def test_garbage_from_before_is_no_part_of_what_is_measured():
    """8 MB that only the garbage collector frees, and that are traced, do not hide 0.8 MB."""

    def walk(loss):
        gc.collect()
        held = np.zeros(10**5)
        backward(loss)
        assert held.nbytes == 800_000

    tuned = tune("lora", base("float32"))
    tracemalloc.start()
    gc.disable()
    try:
        ring = [np.zeros(10**6)]
        ring.append(ring)
        del ring
        assert ml.measure(tuned, 2, 8, walk=walk).transient > 800_000
        assert tracemalloc.is_tracing()
    finally:
        gc.enable()
        tracemalloc.stop()


def test_next_is_tried_where_a_straight_line_meets_the_budget():
    """A line is met at once. n²: the line through the last two sizes; the eighth try halves."""
    tried = []

    def counted(size):
        tried.clear()
        return lambda n: tried.append(n) or size(n)

    assert largest(counted(lambda n: 1000 + 3 * n), 1172) == 57 and tried == [1, 2, 57, 58]
    assert largest(counted(lambda n: n * n), 100) == 10
    assert tried == [1, 2, 34, 3, 25, 6, 13, 9, 10, 11]
    assert largest(counted(lambda n: 0 if n <= 700_000 else 10**12), 10) == 700_000
    assert len(tried) <= 2 + 8 + 20


# ---------------------------------------- bytes


@pytest.mark.parametrize("budget, wanted", [(12, 0), (13, 1), (15, 1), (16, 2), (3010, 1000)])
def test_the_largest_number_that_fits_is_found_in_a_few_tries(budget, wanted):
    tried = []

    def size(n):
        tried.append(n)
        return 10 + 3 * n

    assert largest(size, budget) == wanted and len(tried) <= 6
    assert largest(size, 10**9, limit=50) == 50
    assert largest(lambda n: n**3, budget) == max(n for n in range(20) if n**3 <= budget)


def test_the_parts_of_a_ledger_add_up_to_its_peak():
    row = ml.ledger(base().config, 1, 8, method="lora")
    parts = row.weights, row.optimizer, row.scratch, row.activations, row.transient
    assert sum(parts) == row.peak and row.frozen + row.trainable + row.moved == row.weights


@pytest.mark.parametrize("mixed", [False, True])
def test_a_table_of_bytes_says_whether_they_were_measured_so(mixed):
    row = ml.ledger(base().config, 1, 8, method="lora", mixed=mixed)
    more = dataclasses.replace(row, activations=row.activations + 1)
    same, other = (
        "\n".join(tables.overview({"lora": row}, {"lora": r}, True, mixed)) for r in (row, more)
    )
    assert "the same bytes, peak +0.0%" in same and "NOT the same bytes" not in same
    assert "NOT the same bytes" in other
    assert ("master copy" in same) == mixed and ("a 32-bit master copy" in same) == mixed


SEEN = Saved("model.layers.0.mlp.gate", "linear", "x", (2, 3), 200, ("model.layers.0.mlp.up",))


ROW = Ledger(
    weights=1000, gradients=20, optimizer=40, activations=500, frozen=900, trainable=70, shared=10,
    moved=20, base_kept=0, scratch=64, peak=1624, transient=20,
    saved=(
        SEEN,
        dataclasses.replace(SEEN, where="model.layers.1.mlp.gate"),
        Saved("model.norm", "rmsnorm", "x", (2, 3), 100, ()),
    ),
)  # fmt: skip


def cells(line):
    """Each cell of a line of a table with the place at which it ends."""
    return [(m[0], m.end()) for m in re.finditer(r"\S+(?: \S+)*", line)]


def test_the_overview_has_its_numbers_under_the_names_of_their_columns():
    head, lora, real, *notes = tables.overview({"lora": ROW}, {"lora": ROW})
    names = ("method", "weights", "gradients", "optimizer", "activations", "peak")
    assert cells(head) == list(zip(names, (6, 32, 45, 58, 71, 84)))
    numbers = ("0.98 KiB", "20 B", "40 B", "500 B", "1.59 KiB")
    assert cells(lora) == list(zip(("LoRA", *numbers), (4, 32, 45, 58, 71, 84)))
    assert real == f"  measured{lora[10:]}   the same bytes, peak +0.0%" and len(notes) == 1
    assert lora.startswith("LoRA ")


def test_what_is_kept_of_the_base_is_said_once():
    row, said = dataclasses.replace(ROW, base_kept=2048), "base kept, in addition"
    short, long = ("\n".join(tables.overview({"full": row}, {}, d)) for d in (False, True))
    assert short.endswith(f"{said}, so that detach gives it back: Full fine-tuning 2.00 KiB")
    assert said not in long and long.count("base kept") == 1


def test_the_parts_and_the_saved_arrays_stand_in_columns():
    _, *found = tables.parts(ROW)
    assert cells(found[0]) == [("frozen,", 7), ("weights that do not train", 39), ("900", 69)]
    assert found[1].index("weights that train") == 14 and len(found) == 11
    _, *found = tables.saved(ROW)
    wanted = [
        [("saved for backward", 18), ("arrays", 52), ("bytes", 69), ("also kept by", 84)],
        [("mlp.gate: x (linear)", 20), ("2", 52), ("400", 69), ("mlp.up", 78)],
        [("model.norm: x (rmsnorm)", 23), ("1", 52), ("100", 69)],
        [("together", 8), ("3", 52), ("500", 69)],
    ]
    assert [cells(line) for line in found] == wanted


def test_a_budget_of_nothing_is_refused_and_the_other_sizes_are_the_last_that_fit():
    config = base().config
    with pytest.raises(ValueError, match=r"--fit is 0, wanted a number of GB above 0"):
        tables.fits(config, {"lora": {}}, 0, 4)
    peaks = [ml.ledger(config, 1, n, method="lora").peak for n in range(1, 40)]
    more = [ml.ledger(config, n, 4, method="lora").peak for n in range(1, 40)]
    budget = peaks[20]
    assert tables.fits(config, {"lora": {}}, budget / 1e9, 4)["lora"] == {
        "rows": sum(peak <= budget for peak in more),
        "tokens": 21,
    }


def test_the_table_of_what_fits():
    limits = {"lora": {"rows": 0, "tokens": 1234}, "vera": {"rows": 4096, "tokens": 2**17}}
    first, *rows, last = tables.fit_table(limits, base().config, 0.5, 128)
    assert first == "within 0.5 GB (10⁹ bytes), by the predicted peak:"
    wanted = [
        [("method", 6), ("rows of 128 tokens", 41), ("tokens of one row", 62)],
        [("LoRA", 4), ("none", 41), ("1,234", 62)],
        [("VeRA", 4), ("4,096 or more", 41), ("131,072 or more", 62)],
    ]
    assert [cells(row) for row in rows] == wanted
    assert last == "memory only: the model was made for 2,048 tokens a row"


def test_the_table_of_the_rows_that_matter_counts_targets():
    """In row 1 the positions up to its last target can matter; row 2 has no target."""
    ids, targets = np.ones((2, 3), int), np.array([[-100, 2, -100], [-100, -100, -100]])
    kept = {"lora": {"every": 2048, "matter": 1024, "recomputed": 512}}
    head, lora, which, _ = tables.rows_table(kept, (ids, targets))
    names = ("kept for backward", "every position", "that matter", "and recompute")
    assert cells(head) == list(zip(names, (17, 34, 56, 78)))
    assert [end for _, end in cells(lora)] == [4, 34, 49, 56, 71, 78]
    assert lora.split() == "LoRA 2.00 KiB 1.00 KiB 50.0% 512 B 25.0%".split()
    assert which == "2 × 3 positions, of which 2 can matter and 1 have a counted target"


def test_bytes_kept_in_three_ways_are_the_ledger_s():
    config, batch = base().config, BATCHES[0]
    found = tables.kept_by_rows(config, {"lora": {}}, batch)["lora"]
    N, T = batch[0].shape
    again = ml.ledger(config, batch=batch, method="lora", recompute="layers")
    assert found == {
        "every": ml.ledger(config, N, T, method="lora").activations,
        "matter": ml.ledger(config, batch=batch, method="lora").activations,
        "recomputed": again.activations,
    }
