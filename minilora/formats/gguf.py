"""GGUF files, versions 2 and 3: metadata, and tensors in blocks of 4 to 32 bits a weight.

Source: ggml's docs/gguf.md; the layouts of the blocks are in ggml-common.h.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..support.packed import Packed
from ..support.terminal import printable

MAGIC = b"GGUF"
ALIGNMENT = 32  # bytes: each tensor begins at a multiple; the metadata may say another number
# kind of a metadata value -> its format character in the struct module
NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9  # the other two kinds


def _f32(blocks):
    return blocks.view("<f4").astype(np.float32)


def _f16(blocks):
    return blocks.view("<f2").astype(np.float32)


def _column(blocks, start):
    """The float16 at byte `start` of each block  ->  (blocks, 1) float32."""
    return _f16(np.ascontiguousarray(blocks[:, start : start + 2]))


def _nibbles(codes):
    """(blocks, 16) bytes -> (blocks, 32): first the low halves of the bytes, then the high ones."""
    return np.concatenate([codes & 15, codes >> 4], axis=1)


def _q4_0(blocks):
    """w = d (q - 8).   18 bytes: d float16, 16 bytes of q."""
    return _column(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks):
    """w = d q + m.   20 bytes: d and m float16, 16 bytes of q."""
    return _column(blocks, 0) * _nibbles(blocks[:, 4:]) + _column(blocks, 2)


def _q8_0(blocks):
    """w = d q.   34 bytes: d float16, 32 signed bytes of q."""
    return _column(blocks, 0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def in_q8_0(w: np.ndarray) -> np.ndarray:
    """d = max |w| / 127, q = w / d rounded, halves away from 0.   -> (blocks, 34) uint8.

    Source: ggml-quants.c, quantize_row_q8_0_ref.
    """
    w = w.reshape(-1, 32)
    d = np.abs(w).max(axis=1, keepdims=True) / 127
    with np.errstate(divide="ignore"):
        size = np.abs(w * np.where(d == 0, 0, 1 / d))
    whole = np.floor(size)
    q = np.sign(w) * (whole + np.floor(2 * (size - whole)))
    return np.hstack([d.astype("<f2").view(np.uint8), q.astype(np.int8).view(np.uint8)])


def _bf16(blocks):
    """A bfloat16 is the upper half of a float32."""
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _fifth_bits(blocks, start):
    """Bit n of the 4 bytes at `start` is weight n's fifth bit.  -> (blocks, 32), each 0 or 16."""
    return np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") << 4


def _q5_0(blocks):
    """w = d (q - 16).   22 bytes: d float16, 4 bytes of fifth bits, 16 bytes of the lower four."""
    q = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _column(blocks, 0) * (q.astype(np.float32) - 16)


def _q5_1(blocks):
    """w = d q + m.   24 bytes: d and m float16, 4 bytes of fifth bits, 16 bytes of the others."""
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _column(blocks, 0) * q + _column(blocks, 2)


def _k_scaled(blocks, q):
    """w = d scale q - dmin minimum, in 8 parts of 32.   q (blocks, 8, 32)  ->  (blocks, 256).

    Bytes 0-1 and 2-3 are d and dmin in float16. Bytes 4-15 hold 8 scales and 8 minima of 6 bits:
    the lower 6 bits of bytes 4-7 are scales 0 to 3, those of 8-11 are minima 0 to 3. Scales and
    minima 4 to 7 have their upper 2 bits in the same bytes, and their lower 4 in bytes 12-15.
    """
    low, middle, last = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scale = np.concatenate([low & 63, last & 15 | low >> 6 << 4], axis=1)
    minimum = np.concatenate([middle & 63, last >> 4 | middle >> 6 << 4], axis=1)
    d, m = _column(blocks, 0) * scale, _column(blocks, 2) * minimum
    return (d[..., None] * q - m[..., None]).reshape(-1, 256)


def _fields(codes, group, bits):
    """Unpack fields of `bits` bits: in each group of bytes first all lowest fields, and so on."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return codes.reshape(len(codes), -1, 1, group) >> shifts & (1 << bits) - 1


def _q4_k(blocks):
    """144 bytes: d, dmin, 12 of scales and minima, 128 of q: 64 weights in 32 bytes."""
    return _k_scaled(blocks, _fields(blocks[:, 16:], 32, 4).reshape(-1, 8, 32))


def _q5_k(blocks):
    """176 bytes: as Q4_K, with 32 bytes of fifth bits before q: bit n of each is for part n."""
    q, fifth = _fields(blocks[:, 48:], 32, 4), _fields(blocks[:, 16:48], 32, 1)
    return _k_scaled(blocks, q.reshape(-1, 8, 32) | fifth.reshape(-1, 8, 32) << 4)


def _q6_k(blocks):
    """w = d scale (q - 32), in 16 parts of 16.

    210 bytes: 128 of the lower 4 bits, 64 of the upper 2, 16 signed scales, d float16.
    """
    low = _fields(blocks[:, :128], 64, 4).reshape(-1, 256)
    high = _fields(blocks[:, 128:192], 32, 2).reshape(-1, 256)
    q = (low | high << 4).astype(np.float32) - 32
    d = _column(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return (d[..., None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


@dataclass(frozen=True)
class Packing:
    """A type of block, which is a form of weights. The weights of a block are in one row."""

    name: str
    weights: int  # in a block
    nbytes: int  # of a block
    unpack: Callable[[np.ndarray], np.ndarray]  # (blocks, nbytes) uint8 -> (blocks, weights) f32

    def rows(self, parts, shape, rows):
        """Unpack these rows. A damaged scale gives NaN or infinity."""
        blocks = np.ascontiguousarray(parts[0][rows]).reshape(-1, self.nbytes)
        with np.errstate(over="ignore", invalid="ignore"):
            return self.unpack(blocks).reshape(-1, *shape[1:])

    def size(self, shape):
        """Bytes of all blocks."""
        return math.prod(shape) // self.weights * self.nbytes


PACKINGS = {
    0: Packing("F32", 1, 4, _f32),
    1: Packing("F16", 1, 2, _f16),
    2: Packing("Q4_0", 32, 18, _q4_0),
    3: Packing("Q4_1", 32, 20, _q4_1),
    6: Packing("Q5_0", 32, 22, _q5_0),
    7: Packing("Q5_1", 32, 24, _q5_1),
    8: Packing("Q8_0", 32, 34, _q8_0),
    12: Packing("Q4_K", 256, 144, _q4_k),
    13: Packing("Q5_K", 256, 176, _q5_k),
    14: Packing("Q6_K", 256, 210, _q6_k),
    30: Packing("BF16", 1, 2, _bf16),
}


def read_gguf(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file's metadata, and its tensors by name.

    A tensor of one axis is an array, any other a `Packed` on the memory-mapped file.
    Raises FileNotFoundError, or ValueError for a damaged file or an unsupported type of tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size < 24:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, not even a GGUF header")
    data = np.memmap(path, np.uint8, "r")
    reader = _Reader(path, data)
    if reader.bytes(4) != MAGIC:
        raise ValueError(f"{path}: begins with {data[:4].tobytes()!r}, wanted {MAGIC!r}")
    version = reader.number("I")
    if version not in (2, 3):
        raise ValueError(f"{path}: GGUF version {version}, supported are 2 and 3")
    tensors, entries = reader.count(24), reader.count(12)
    about = {}
    for _ in range(entries):
        key = reader.text()
        if key in about:
            raise ValueError(f"{path}: {key!r:.80} appears twice in the metadata")
        about[key] = reader.value(reader.number("I"))
    listed = [reader.tensor() for _ in range(tensors)]
    if len(listed) > len({name for name, *_ in listed}):
        raise ValueError(f"{path}: a tensor's name appears twice in the list")
    align = about.get("general.alignment", ALIGNMENT)
    if not (isinstance(align, int) and align > 0):
        raise ValueError(f"{path}: general.alignment is {align!r:.40}, wanted a number above 0")
    start = -(-reader.place // align) * align
    _check_apart(path, align, listed)
    return about, {name: _slice(path, data, start, name, *rest) for name, *rest in listed}


def _check_apart(path, align, listed):
    """Raises ValueError where a tensor is not aligned, or begins inside the one before it."""
    end, before = 0, ""
    for name, shape, kind, offset in sorted(listed, key=lambda entry: entry[-1]):
        if offset % align:
            raise ValueError(f"{path}: {name} begins at {offset}, wanted a multiple of {align}")
        if offset < end:
            raise ValueError(f"{path}: {name} begins inside {before}")
        if packing := PACKINGS.get(kind):  # `_slice` refuses another
            end = offset + math.prod(shape) // packing.weights * packing.nbytes
        before = name


def _slice(path, data, start, name, shape, kind, offset):
    """One listed tensor; raises ValueError if its data would end after the file."""
    if kind not in PACKINGS:
        supported = ", ".join(f"{k} ({p.name})" for k, p in PACKINGS.items())
        raise ValueError(f"{path}: {name} is of type {kind}, supported are {supported}")
    packing = PACKINGS[kind]
    if shape[-1] % packing.weights:
        wanted = f"{packing.name} wants multiples of {packing.weights}"
        raise ValueError(f"{path}: {name} has rows of {shape[-1]}, {wanted}")
    end = start + offset + math.prod(shape) // packing.weights * packing.nbytes
    if end > len(data):
        raise ValueError(f"{path}: {len(data)} bytes, {name} would end at {end}")
    rows = shape if len(shape) > 1 else (1, *shape)
    blocks = np.asarray(data[start + offset : end]).reshape(rows[0], packing.size(rows[1:]))
    tensor = Packed(packing, rows, [blocks])
    return tensor if len(shape) > 1 else tensor[:][0]


class _Reader:
    """Reads the file's bytes in order; `place` is the next one to read."""

    def __init__(self, path, data):
        self.path, self.buffer, self.place = path, memoryview(data), 0

    def bytes(self, length: int) -> bytes:
        """The next bytes; raises ValueError past the end."""
        if length > len(self.buffer) - self.place:
            raise self._cut(f"wanted {length} more after {self.place}")
        self.place += length
        return bytes(self.buffer[self.place - length : self.place])

    def number(self, code: str) -> Any:
        """The next number; code: its format character in the struct module."""
        return struct.unpack(f"<{code}", self.bytes(struct.calcsize(code)))[0]

    def count(self, least: int) -> int:
        """The next number: a count of items that have at least `least` bytes each.

        Raises ValueError if the file is too small for that many items.
        """
        n = self.number("Q")
        if n * least > len(self.buffer):
            raise self._cut(f"too few for {n} items at {self.place}")
        return n

    def _cut(self, why):
        size = len(self.buffer)
        return ValueError(f"{self.path}: not a whole GGUF file: {size} bytes, {why}")

    def text(self) -> str:
        """The next string."""
        raw = self.bytes(self.count(1))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.path}: {raw[:40]!r} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        """The next value of the metadata, of this kind."""
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise ValueError(f"{self.path}: metadata of kind {kind}, known are 0 to 12")
        inner = self.number("I")
        if inner == STRING:
            return [self.text() for _ in range(self.count(8))]
        if inner not in NUMBERS:
            raise ValueError(f"{self.path}: an array of kind {inner}, known are 0 to 8, 10 to 12")
        size = struct.calcsize(NUMBERS[inner])
        n = self.count(size)
        # a memoryview is as small as in the file; compared with a string it gives one bool
        return np.frombuffer(self.bytes(n * size), f"<{NUMBERS[inner]}").data

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """The next entry in the list of tensors  ->  name, shape, type, offset."""
        name, axes = printable(self.text()), self.number("I")
        if not 1 <= axes <= 4:
            raise ValueError(f"{self.path}: {name} has {axes} axes, wanted 1 to 4")
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        return name, shape, self.number("I"), self.number("Q")
