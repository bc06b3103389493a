"""Trajectories of PEFT and torch, replayed without either: see golden/make_golden.py."""

import json
from pathlib import Path

import numpy as np
import pytest

import minilora as ml
from minilora.formats.safetensors import read_arrays
from minilora.methods import DEFAULT

pytestmark = pytest.mark.smoke
FOLDER = Path(__file__).parent
CASES = sorted(path.stem for path in FOLDER.glob("*.safetensors") if path.stem != "base")
LOSS = {"float32": 1e-4, "float64": 1e-8}  # relative, at every step
END = {"float32": 1e-3, "float64": 1e-7}  # of an array's largest entry: where a gradient is
# nearly zero, AdamW makes a step of full size out of a rounding's sign


def base(dtype):
    """The tiny Llama of all cases, and its batches."""
    arrays, about = read_arrays(FOLDER / "base.safetensors")
    batches = list(zip(arrays.pop("ids"), arrays.pop("targets"), strict=True))
    config = ml.ModelConfig(**json.loads(about["config"]))
    return ml.Llama(config, {k: a.astype(dtype) for k, a in arrays.items()}), batches


@pytest.mark.parametrize("dtype", LOSS)
@pytest.mark.parametrize("case", CASES)
def test_a_trajectory_replays(case, dtype):
    arrays, about = read_arrays(FOLDER / f"{case}.safetensors")
    run = json.loads(about["about"])
    model, batches = base(dtype)
    tuned = ml.attach(model, run["method"], **run["attach"])
    for name, a in part(arrays, "start").items():
        tuned.arrays[name][...] = a
    history = ml.train(tuned, batches, **run["train"], progress=False)
    assert len(arrays["losses"]) == 30
    np.testing.assert_allclose(history.losses, arrays["losses"], rtol=LOSS[dtype], atol=0)
    ends, moved = part(arrays, "end"), tuned.arrays
    assert set(tuned.trainable) <= set(ends)
    for name, wanted in ends.items():
        assert np.abs(moved[name] - wanted).max() <= END[dtype] * np.abs(wanted).max(), name


def part(arrays, which):
    """name -> array of those that the file calls which.name."""
    return {k.removeprefix(f"{which}."): a for k, a in arrays.items() if k.startswith(f"{which}.")}


def test_every_method_has_a_trajectory_that_starts_away_from_zero():
    seen = set()
    for case in CASES:
        arrays, about = read_arrays(FOLDER / f"{case}.safetensors")
        seen.add(json.loads(about["about"])["method"])
        assert all(np.abs(a).min() > 0 for a in part(arrays, "start").values()), case
        assert np.ptp(arrays["losses"]) > 0.1, case
    assert seen >= set(DEFAULT)


def test_veras_projections_are_drawn_again_only_where_the_file_has_none():
    saved, drawn = (
        part(read_arrays(FOLDER / f"{case}.safetensors")[0], "start")
        for case in ("vera_saved", "vera_from_its_key")
    )
    projections = {"base_model.vera_A", "base_model.vera_B"}
    assert projections <= set(saved) and not projections & set(drawn)
