"""Arrays in a .safetensors file, written so that a kill leaves the old file whole, and read with
care.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..support.files import write_atomically

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")  # endings of what torch.save and pickle write
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes of a number, by the header's word for it


def write_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> None:
    """Write all arrays and a metadata map of strings;
    the old file stays whole until the new one is on the disk.
    """
    write_atomically(path, array_bytes(arrays, about))


def array_bytes(arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> bytes:
    """The contents of a .safetensors file of these arrays and a metadata map of strings."""
    whole = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    return save(whole, metadata={"format": "pt", **(about or {})})


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`read_arrays`, for arrays to compute with.

    Raises ValueError naming an array that is of whole numbers or has a NaN or an infinity too.
    """
    arrays, about = read_arrays(path)
    for name, a in arrays.items():
        if a.dtype.kind != "f":
            raise ValueError(f"{path}: {name} is of {a.dtype}, wanted floating-point numbers")
        if not np.isfinite(a).all():
            bad = a[~np.isfinite(a)]
            raise ValueError(
                f"{path}: {name} has {bad.size} of {a.size} numbers not finite, the first {bad[0]}"
            )
    return arrays, about


def refuse_pickles(path: str | Path) -> None:
    """Raises ValueError where a pickle is asked for: at path itself, or beside it in its stead."""
    path = Path(path)
    found = [path] if path.suffix in PICKLES and path.is_file() else []
    if path.suffix == ".safetensors" and not path.exists():
        found = sorted(p for p in path.parent.glob("*") if p.suffix in PICKLES)
    if found:
        raise ValueError(
            f"{found[0]}: a pickle, which can run any code as it is opened: refused; wanted "
            ".safetensors (transformers and PEFT write it by save_pretrained)"
        )


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays of a file and its metadata; bfloat16, which NumPy lacks, as float32.

    Raises ValueError for a truncated or foreign file, FileNotFoundError.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as f:
            names = list(f.keys())
            narrow = {name for name in names if f.get_slice(name).get_dtype() == "BF16"}
            arrays = {name: f.get_tensor(name) for name in names if name not in narrow}
            return arrays | _bfloat16(path, narrow), f.metadata() or {}
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({_reason(path, error)})") from None


def _bfloat16(path, names):
    """These arrays as float32: a bfloat16 is the upper half of one.

    The file has passed safe_open's checks.
    """
    if not names:
        return {}
    found = {}
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        for name in names:
            start, end = header[name]["data_offsets"]
            f.seek(8 + length + start)
            upper = np.frombuffer(f.read(end - start), "<u2").astype(np.uint32)
            found[name] = (upper << 16).view(np.float32).reshape(header[name]["shape"])
    return found


def _reason(path, error):
    """What is wrong with the file, in a few words:
    the length that its header promises against what is there.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        start = f.read(8)
        if len(start) < 8:
            return f"{size} bytes, not even a header"
        if start[:4] == b"PK\x03\x04" or (start[0] == 0x80 and start[1] < 6):
            return "it begins as a pickle or a zip of one does, which could run code"
        (length,) = struct.unpack("<Q", start)
        if length > size - 8:
            return f"{size} bytes, its header alone would be {length}"
        try:
            header = json.loads(f.read(length))
            entries = {name: v for name, v in header.items() if name != "__metadata__"}
            end = 8 + length + max((v["data_offsets"][1] for v in entries.values()), default=0)
            lies = [lie for lie in map(_lie, entries, entries.values()) if lie]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "its header is not JSON of the right form"
    if end != size:
        return f"{size} bytes, its header promises {end}"
    return lies[0] if lies else str(error).replace("\n", " ")[:160]


def _lie(name, entry):
    """Where an entry's shape is not of as many bytes as its place: this, in words."""
    start, stop = entry["data_offsets"]
    wanted = math.prod(entry["shape"]) * WIDTHS.get(entry["dtype"], 0)
    if wanted and wanted != stop - start:
        return f"{name} of shape {entry['shape']} is {wanted} bytes, its place has {stop - start}"
    return ""
