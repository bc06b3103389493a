"""What an adapter's file weighs, and whether another process makes the same adapter of it."""

import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

from minilora.lab.cells import ONE_THREAD
from minilora.lab.sweep import the_model
from minilora.tuning.adapters import Tuned, attach
from minilora.tuning.storage import load_adapter, save_adapter

from . import _lab


def of_file(method, rank, seed):
    """Bytes with A and B and without; does another process make the same adapter of the smaller?"""
    tuned = attach(the_model("base"), method, rank=rank, seed=seed)
    rng = np.random.default_rng(seed)
    for array in tuned.trainable.values():
        array[:] = rng.normal(0, 0.1, array.shape)
    with tempfile.TemporaryDirectory() as folder:
        found = {"bytes": save_adapter(tuned, folder, save_projection=False)}
        if _lab.shares(method):
            found["bytes_with_projections"] = save_adapter(tuned, Path(folder) / "whole")
        there = _elsewhere(folder)
    here = checksums(tuned)
    found["trainable"] = sum(a.size for a in tuned.trainable.values())
    return {**found, "checksums": here, "same_bits_elsewhere": here == there}


def checksums(tuned: Tuned) -> dict[str, int]:
    """CRC-32 of every array of the adapter together, and of the logits of some ids."""
    ids = np.arange(2 * 12).reshape(2, 12) % tuned.config.vocab_size
    arrays = b"".join(tuned.arrays[key].tobytes() for key in sorted(tuned.arrays))
    return {"arrays": zlib.crc32(arrays), "logits": zlib.crc32(tuned.logits(ids).tobytes())}


def load_and_print(folder: str) -> None:
    """What the other process does."""
    print(json.dumps(checksums(load_adapter(the_model("base"), folder))))


def _elsewhere(folder):
    command = f"from {__name__} import load_and_print; load_and_print({str(folder)!r})"
    package = Path(__file__).resolve().parents[1]  # where it was imported from, here too
    env = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": str(package)}
    process = [sys.executable, "-W", "ignore", "-c", command]
    out = subprocess.run(process, capture_output=True, text=True, check=True, env=env)
    return json.loads(out.stdout)
