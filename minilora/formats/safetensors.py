"""Arrays in a .safetensors file, written so that a kill leaves the old file whole, and read with care."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..files import write_atomically


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> None:
    """Write all arrays and a metadata map of strings; the old file stays whole until the new one is on the disk."""
    whole = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    write_atomically(Path(path), save(whole, metadata={"format": "pt", **(about or {})}))


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a file and its metadata. Raises ValueError for a truncated or foreign file, FileNotFoundError."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as f:
            return {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({_reason(path, error)})") from None


def _reason(path, error):
    """What is wrong with the file, in a few words: the length that its header promises against what is there."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        start = f.read(8)
        if len(start) < 8:
            return f"{size} bytes, not even a header"
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            return f"{size} bytes, its header alone would be {length}"
        try:
            header = json.loads(f.read(length))
            end = 8 + length + max((v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "its header is not JSON of the right form"
    return f"{size} bytes, its header promises {end}" if end != size else str(error).replace("\n", " ")
