"""The weights in NF4 that bitsandbytes stores: several arrays of a file as one `Packed`."""

import math
from typing import Any

import numpy as np

from ..ops import nf4
from ..support.files import parse_json
from ..support.kinds import check_kind
from ..support.packed import Packed
from .forms import FORMS

STATE = ".quant_state.bitsandbytes__nf4"  # after a weight's name: JSON in bytes
SIZES = {"blocksize": nf4.BLOCK, "nested_blocksize": nf4.SECOND}


def joined(path: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays by name, with a `Packed` in place of those that belong to one weight.

    Raises ValueError, with file and name, for NF4 of another kind: without double quantisation,
    with other blocks or levels, or parts that do not fit together.
    """
    arrays = dict(arrays)
    for name in [n.removesuffix(STATE) for n in arrays if n.endswith(STATE)]:
        place = f"{path}: {name}{STATE}"
        state = parse_json(place, arrays.pop(f"{name}{STATE}").tobytes())
        check_kind(place, "it", state, {"shape": [int], **dict.fromkeys(SIZES, int)})
        check_kind(place, "it", state, {"nested_offset": float})
        parts = {"codes": arrays.pop(name).reshape(-1)}
        for part in ("absmax", "nested_absmax", "quant_map", "nested_quant_map"):
            if f"{name}.{part}" not in arrays:
                raise ValueError(f"{path}: no {name}.{part}, wanted NF4 with double quantisation")
            parts[part] = arrays.pop(f"{name}.{part}").reshape(-1)
        shape, mean = tuple(state["shape"]), np.array(state["nested_offset"], np.float32)
        numbers = math.prod(shape)
        wanted = {
            "codes": (np.uint8, -(-numbers // 2)),
            "absmax": (np.uint8, (blocks := -(-numbers // nf4.BLOCK))),
            "nested_absmax": (np.float32, -(-blocks // nf4.SECOND)),
            "quant_map": (np.float32, len(nf4.LEVELS)),
            "nested_quant_map": (np.float32, len(nf4.dynamic_levels())),
        }
        for part, (dtype, n) in wanted.items():
            if (found := parts[part]).dtype != dtype or len(found) != n:
                kind = f"{len(found)} of {found.dtype}, wanted {n} of {np.dtype(dtype)}"
                raise ValueError(f"{path}: {name}: its {part} has {kind}")
        levels = {"quant_map": nf4.LEVELS, "nested_quant_map": nf4.dynamic_levels()}
        for part, level in levels.items():
            if not np.array_equal(parts[part], np.float32(level)):
                raise ValueError(f"{path}: {name}: {part} has other levels than NF4's")
        for size, number in SIZES.items():
            if state[size] != number:
                raise ValueError(f"{path}: {name}: {size} is {state[size]}, wanted {number}")
        four = parts["codes"], parts["absmax"], parts["nested_absmax"], mean
        arrays[name] = Packed(FORMS["nf4"], shape, four)
    return arrays
