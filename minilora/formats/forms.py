"""The storage forms of a model's matrices, and the conversion of a file's tensors into them.

A file's tensor is an array or a `Packed` on the memory-mapped file. It is converted one block of
rows at a time, so memory holds the result and one block.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..llama.model import EMBED, HEAD, ModelConfig
from ..ops import nf4
from ..support.files import find
from ..support.meta import form_of
from ..support.packed import Packed, blocks_of
from .gguf import PACKINGS, in_q8_0
from .safetensors import BF16, check_finite

# load_model's choice -> the form
WEIGHTS = {"float32": "", "nf4": "nf4", "stored": "stored"}  # of the layers' linears
EMBEDDINGS = {"float32": "", "bfloat16": "BF16", "int8": "Q8_0"}  # of the embedding and the head


@dataclass(frozen=True)
class NF4:
    """NF4: the parts are codes, c2, c1 and mean, as in ops/nf4.py."""

    name: str = "nf4"

    def rows(self, parts, shape, rows):
        """Dequantise these rows. The first may begin inside a block."""
        if not isinstance(rows, slice):
            return np.concatenate([self.rows(parts, shape, slice(i, i + 1)) for i in rows])
        codes, c2, c1, mean = parts
        first, last = rows.start * shape[1], rows.stop * shape[1]
        skip = first // (nf4.BLOCK * nf4.SECOND)  # numbers of c1 whose blocks end before these rows
        begin = skip * nf4.BLOCK * nf4.SECOND
        codes = codes[begin // 2 : -(-last // 2)]
        c2 = c2[begin // nf4.BLOCK : -(-last // nf4.BLOCK)]
        w = nf4.dequantise(codes, c2, c1[skip:], mean, (1, last - begin))
        return w[0, first - begin :].reshape(-1, shape[1])

    def size(self, shape):
        """Bytes of all parts."""
        numbers = math.prod(shape)
        blocks = -(-numbers // nf4.BLOCK)
        return -(-numbers // 2) + blocks + 4 * -(-blocks // nf4.SECOND) + 4


# the forms that twins support
FORMS: dict[str, Any] = {form.name: form for form in (NF4(), BF16, PACKINGS[8], PACKINGS[3])}


def choose(
    config: ModelConfig, weights: str = "float32", embeddings: str = "float32"
) -> dict[str, str]:
    """Name -> form, for the matrices that are stored in another form than float32.

    Raises ValueError for an unknown choice, or for a width that is not a whole number of blocks.
    """
    form = find("form of weights", weights, WEIGHTS)
    outer = find("form of embeddings", embeddings, EMBEDDINGS)
    if outer == "Q8_0" and config.hidden_size % FORMS[outer].weights:
        raise ValueError(
            f"embeddings='int8': hidden_size is {config.hidden_size}, wanted a multiple of "
            f"{FORMS[outer].weights}; 'bfloat16' takes any"
        )
    forms = {f"{name}.weight": form for name in config.linears() if form}
    return forms | {name: outer for name in config.shapes() if outer and name in (EMBED, HEAD)}


def put(path: Any, name: str, stored: Any, form: str) -> Any:
    """Convert a file's tensor.   form: "" is float32; "stored" keeps a form that twins support.

    Raises ValueError, with the file and the name, for numbers that are not finite.
    """
    if form == "stored":
        form = form_of(stored) if form_of(stored) in FORMS else ""
    blocks = _checked(path, name, stored, nf4.BLOCK)
    if form == "nf4":
        return in_nf4(stored.shape, blocks) if form_of(stored) != form else _copy(stored, blocks)
    if form:
        return _copy(stored, blocks) if form_of(stored) == form else _encoded(stored, form, blocks)
    out = np.empty(stored.shape, np.float32)
    for rows, block in blocks:
        out[rows] = block
    return out


def _checked(path, name, stored, multiple):
    for rows, block in blocks_of(stored, multiple):
        check_finite(path, name, block)
        yield rows, block


def _copy(stored, blocks):
    """Check every number, and copy the parts from the file into memory."""
    for _ in blocks:
        pass
    return Packed(stored.kind, stored.shape, [np.array(part) for part in stored.parts])


def in_nf4(shape: tuple[int, ...], blocks: Iterator[tuple[slice, np.ndarray]]) -> Packed:
    """Quantise a matrix (O, I) to NF4.   blocks: from `blocks_of`, with multiple = 64."""
    numbers = math.prod(shape)
    codes = np.empty(-(-numbers // 2), np.uint8)
    absmax = np.empty(-(-numbers // nf4.BLOCK), np.float32)
    for rows, block in blocks:
        some, sizes = nf4.quantise_blocks(block.reshape(-1))
        start = rows.start * shape[1]
        codes[start // 2 :][: len(some)] = some
        absmax[start // nf4.BLOCK :][: len(sizes)] = sizes
    scales = map(np.array, nf4.quantise_scales(absmax))  # copies, without the padding
    return Packed(FORMS["nf4"], shape, (codes, *scales))


def _encoded(stored, form, blocks):
    """A matrix in BF16 or Q8_0."""
    encode, kind = {"BF16": _bfloat16, "Q8_0": in_q8_0}[form], FORMS[form]
    out = np.empty(kind.size(stored.shape), np.uint8).reshape(len(stored), -1)
    for rows, block in blocks:
        out[rows] = encode(block).view(np.uint8).reshape(len(block), -1)
    return Packed(kind, stored.shape, [out])


def _bfloat16(block):
    """Round float32 to the nearest bfloat16, ties to even: its upper 16 bits."""
    bits = block.view(np.uint32)
    return (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
