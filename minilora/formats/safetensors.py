"""Read and write arrays in .safetensors files. Damaged files and pickles are refused."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..support.files import write_atomically
from ..support.meta import dense
from ..support.packed import Packed
from ..support.terminal import printable
from .gguf import PACKINGS

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")  # suffixes that pickle and torch.save use
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
NO_FLOATS = {"BOOL": "?"} | {f"{k}{8 * n}": f"<{k.lower()}{n}" for k in "IU" for n in (1, 2, 4, 8)}
BF16 = PACKINGS[30]


def write_arrays(
    path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> None:
    """Write arrays of any shapes, and metadata, into a file. Raises OSError."""
    write_atomically(path, array_bytes(arrays, about))


def array_bytes(arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> bytes:
    """The contents of a .safetensors file with these weights, in any form, and metadata `about`."""
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
    arrays, about = open_arrays(path)
    return {name: np.array(a) for name, a in arrays.items()}, about


def open_arrays(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """As `read_arrays`, but the arrays are views of the memory-mapped file; a matrix of bfloat16 is
    a `Packed`.
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
            return _on_file(path, names), f.metadata() or {}
    except (SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({_reason(path, error)})") from None


def _on_file(path, names):
    """name -> view of the mapped file; safe_open has already checked its header."""
    data = np.asarray(np.memmap(path, np.uint8, "r"))
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header, arrays = json.loads(data[8:start].tobytes()), {}
    for name in names:
        begin, end = header[name]["data_offsets"]
        kind, shape = header[name]["dtype"], tuple(header[name]["shape"])
        array: Any = data[start + begin : start + end].view((FLOATS | NO_FLOATS)[kind])
        array = array.reshape(shape)
        if kind == "BF16" and array.ndim == 2 and array.size:
            array = Packed(BF16, shape, [array.view(np.uint8)])
        elif kind == "BF16":
            array = BF16.unpack(array)
        arrays[name] = array
    return arrays


def _reason(path, error):
    """Why the file cannot be read, in a few words: most often it is truncated or no safetensors."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        start = f.read(8)
    if len(start) < 8:
        return f"{size} bytes, not even a header"
    if start[:4] == b"PK\x03\x04" or (start[0] == 0x80 and start[1] < 6):
        return "it begins like a pickle or a zip of one; a pickle can run any code"
    return printable(f"{size} bytes; {error}").replace("\n", " ")[:160]
