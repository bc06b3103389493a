"""Weights in NF4 as bitsandbytes stores them: several arrays of a file become one `Packed`."""

import math
from typing import Any

import numpy as np

from ..ops import nf4
from ..support.files import parse_json
from ..support.kinds import check_kind
from ..support.packed import Packed
from .forms import FORMS

STATE = ".quant_state.bitsandbytes__nf4"  # suffix of a weight's name: JSON text as uint8
FIRST, SECOND = np.array(nf4.LEVELS, np.float32), nf4.dynamic_levels()


def joined(path: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays by name; the arrays that store one NF4 weight become one `Packed`.

    Raises ValueError, with file and name, for NF4 without double quantisation, with other block
    sizes or levels, or with parts whose sizes do not match.
    """
    names = [name.removesuffix(STATE) for name in arrays if name.endswith(STATE)]
    weights = {name: _joined(f"{path}: {name}", arrays, name) for name in names}
    parts = tuple(f"{name}." for name in weights)
    return {name: a for name, a in arrays.items() if not name.startswith(parts)} | weights


def _joined(place, arrays, name):
    about = parse_json(place, np.asarray(arrays[f"{name}{STATE}"]).tobytes())
    wanted = {"shape": [int], "blocksize": int, "nested_blocksize": int, "nested_offset": float}
    check_kind(place, STATE, about, wanted)
    sizes = about["blocksize"], about["nested_blocksize"]
    if sizes != (nf4.BLOCK, nf4.SECOND):
        raise ValueError(f"{place}: block sizes {sizes}, wanted {nf4.BLOCK} and {nf4.SECOND}")
    numbers = math.prod(about["shape"])
    blocks = -(-numbers // nf4.BLOCK)
    lengths = {
        "": (np.uint8, -(-numbers // 2)),
        ".absmax": (np.uint8, blocks),
        ".nested_absmax": (np.float32, -(-blocks // nf4.SECOND)),
        ".quant_map": (np.float32, 16),
        ".nested_quant_map": (np.float32, 256),
    }
    parts = []
    for end, (dtype, n) in lengths.items():
        part = np.asarray(arrays.get(f"{name}{end}", ())).reshape(-1)
        if part.dtype != dtype or len(part) != n:
            raise ValueError(
                f"{place}{end}: {len(part)} of {part.dtype}, wanted {n} of {np.dtype(dtype)}: NF4 "
                "with double quantisation"
            )
        parts.append(part)
    *three, levels, second = parts
    if not (np.array_equal(levels, FIRST) and np.array_equal(second, SECOND)):
        raise ValueError(f"{place}: its levels are not those of NF4")
    mean = np.array(about["nested_offset"], np.float32)
    return Packed(FORMS["nf4"], about["shape"], (*three, mean))
