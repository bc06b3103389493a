"""Read and write arrays in .safetensors files. Damaged files and pickles are refused."""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..support.files import write_atomically
from ..support.meta import dense
from ..support.terminal import printable

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")  # suffixes of files by torch.save and pickle
FLOATS = ("F64", "F32", "F16", "BF16")
NO_FLOATS = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")  # also read


def write_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> None:
    """Write arrays of any shapes, and metadata, into a file. Raises OSError."""
    write_atomically(path, array_bytes(arrays, about))


def array_bytes(arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> bytes:
    """The contents of a .safetensors file: name -> weight of any form, and the metadata `about`."""
    # ascontiguousarray gives a single number, of shape (), the shape (1,)
    whole = {name: np.ascontiguousarray(dense(a)).reshape(a.shape) for name, a in arrays.items()}
    return save(whole, metadata={"format": "pt", **(about or {})})


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`read_arrays`, for the weights of a model or an adapter.

    It also raises ValueError for an array of whole numbers, a NaN or an infinity.
    """
    arrays, about = read_arrays(path)
    for name, a in arrays.items():
        if a.dtype.kind != "f":
            raise ValueError(f"{path}: {name} is of {a.dtype}, wanted floating-point numbers")
        check_finite(path, name, a)
    return arrays, about


def check_finite(path: str | Path, name: str, a: np.ndarray) -> None:
    """Raises ValueError for a NaN or an infinity in an array of the file."""
    if not np.isfinite(a).all():
        bad = a[~np.isfinite(a)]
        raise ValueError(
            f"{path}: {name} has {bad.size} of {a.size} numbers not finite, the first {bad[0]}"
        )


def refuse_pickles(path: str | Path) -> None:
    """Raises ValueError if `path` is a pickle, or is missing while its folder contains a pickle."""
    path = Path(path)
    pickles = [path] if path.suffix in PICKLES and path.is_file() else []
    if path.suffix == ".safetensors" and not path.exists():
        pickles = sorted(p for p in path.parent.glob("*") if p.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{pickles[0]}: a pickle, which can run any code when it is opened: refused; wanted "
            ".safetensors (save_pretrained of transformers and PEFT writes it)"
        )


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """name -> array of a file, and its metadata. bfloat16 becomes float32, as NumPy lacks it.

    Raises FileNotFoundError, or ValueError if the file is truncated or of another format.
    """
    if not os.path.isfile(path):
        wrong = "no file" if os.path.exists(path) else "no such file"
        raise FileNotFoundError(f"{path}: {wrong}")
    try:
        with safe_open(path, framework="numpy") as f:
            names = list(f.keys())
            if odd := [name for name in names if printable(name) != name]:
                raise ValueError(f"{odd[0]!r:.80} has control characters")
            kinds = {name: f.get_slice(name).get_dtype() for name in names}
            for name, kind in kinds.items():
                if kind not in (*FLOATS, *NO_FLOATS):
                    raise ValueError(f"{name} is of {kind}, wanted one of {', '.join(FLOATS)}")
            narrow = {name for name in names if kinds[name] == "BF16"}
            arrays = {name: f.get_tensor(name) for name in names if name not in narrow}
            return arrays | _bfloat16(path, narrow), f.metadata() or {}
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({_reason(path, error)})") from None


def _bfloat16(path, names):
    """These bfloat16 arrays as float32: a bfloat16 is the upper half of a float32.

    safe_open has already checked the header.
    """
    if not names:
        return {}
    arrays = {}
    with open(path, "rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        for name in names:
            start, end = header[name]["data_offsets"]
            f.seek(8 + length + start)
            upper = np.frombuffer(f.read(end - start), "<u2").astype(np.uint32)
            arrays[name] = (upper << 16).view(np.float32).reshape(header[name]["shape"])
    return arrays


def _reason(path, error):
    """Why the file cannot be read, in a few words; most often it is cut off or of another kind."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        start = f.read(8)
    if len(start) < 8:
        return f"{size} bytes, not even a header"
    if start[:4] == b"PK\x03\x04" or (start[0] == 0x80 and start[1] < 6):
        return "it begins as a pickle or a zip of one does; a pickle can run any code"
    return printable(f"{size} bytes; {error}").replace("\n", " ")[:160]
