"""Switching: the orders, what the checks would notice, and how far merging may drift."""

import itertools

import numpy as np
import pages
import pytest

from minilora.lab.word_adapters import NAMES, open_library
from minilora.llama.model import Llama
from minilora.tuning.adapters import merge, unmerge
from minilora.tuning.checkpoints import fingerprint
from studies import swapping


@pytest.fixture
def library():
    return open_library()


def test_an_order_visits_all_and_nothing_twice_running():
    order = swapping.order(1000, 3)
    assert set(order) == set(NAMES) and len(order) == 1000
    assert all(a != b for a, b in itertools.pairwise(order))
    assert order == swapping.order(1000, 3) != swapping.order(1000, 4)


def test_switching_changes_nothing():
    found = swapping.run(kind="switch", switches=20, words=3, seed=1)
    assert found["switches_with_other_bits"] == 0
    assert found["base_is_the_same"] and found["adapters_are_the_same"]
    assert found["exact_match_before"] == found["exact_match_after"]
    assert found["arrays_of_the_base_that_an_adapter_copied"] == 0


def test_a_switch_that_writes_is_noticed(monkeypatch, library):
    """One bit of one adapter, and the checks speak."""

    def use(self, name):
        self.current = name
        self["past"].layers["model.layers.0.self_attn.q_proj"]["B"][0, 0] += 1e-3

    monkeypatch.setattr(type(library), "use", use)
    found = swapping.switch(5, 1, 0)
    assert found["switches_with_other_bits"] > 0 and not found["adapters_are_the_same"]
    assert found["base_is_the_same"]


def test_a_copied_base_is_noticed(library):
    other = Llama(
        library.config, {k: a.copy() for k, a in library.base.params.items()}, library.tokenizer
    )
    library["past"].base = other
    assert swapping.copied_arrays(library) == len(other.params)


def test_in_place_is_the_library_s_sum_up_to_float32(library):
    tuned = library["spelling"]
    for ours, theirs in (
        (swapping.added(tuned), merge(tuned)),
        (swapping.subtracted(library.base, tuned), unmerge(library.base, tuned)),
    ):
        for name, array in theirs.params.items():
            assert ours.params[name] == pytest.approx(array, abs=1e-6)
    assert fingerprint(library.base) == fingerprint(open_library().base)


@pytest.mark.parametrize("way", list(swapping.WAYS))
def test_merging_drifts_by_roundings(way):
    """n switches are 2n roundings of at most half a unit in the last place of what was merged."""
    found = swapping.run(kind="merge", way=way, switches=10, words=1, seed=0)
    base = open_library()
    largest = max(
        np.abs(merge(base[name]).params[f"{layer}.weight"]).max()
        for name in base
        for layer in base[name].layers
    )
    ulp = np.spacing(np.float32(largest))
    for switches, weight, logit in found["drift"]:
        assert 0 < weight <= (2 if way == "library" else 4) * switches * ulp
        assert logit < 1e-3
    assert not found["base_is_the_same"]


def test_the_bytes_are_the_arrays(library):
    found = swapping.run(kind="bytes")
    assert found["base_bytes"] == 4 * 720_896
    assert found["adapters_bytes"] == 4 * (4 * 7168 + 73_216)
    assert found["models_bytes"] == 5 * found["base_bytes"]


def test_the_record_says_what_the_claim_says():
    records = pages.whole("swapping")
    found = swapping.summary(records)
    assert found["orders"] == 5 and found["switches_with_other_bits"] == 0
    assert found["copied"] == found["base_changed"] == found["scores_changed"] == 0
    assert found["seconds"]["use_seconds"] < found["seconds"]["unmerge_and_merge_seconds"]
    first, second = (q.judge(found) for q in swapping.QUESTIONS)
    assert first.verdict == "holds" and "0 of 5 × 1,000 switches" in first.evidence
    assert second.verdict == "holds" and second.when
