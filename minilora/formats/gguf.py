"""GGUF files, versions 2 and 3: metadata, and tensors unpacked from blocks of 4 or 8 bits.

Source: ggml's docs/gguf.md; the layouts of the blocks are in ggml-common.h.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..support.terminal import printable

MAGIC = b"GGUF"
ALIGNMENT = 32  # bytes; the tensors begin at a multiple of it, unless the metadata says another
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


@dataclass(frozen=True)
class Packing:
    """A type of block."""

    name: str
    weights: int  # in a block
    nbytes: int  # of a block
    unpack: Callable[[np.ndarray], np.ndarray]  # (blocks, nbytes) uint8 -> (blocks, weights) f32


PACKINGS = {
    0: Packing("F32", 1, 4, _f32),
    1: Packing("F16", 1, 2, _f16),
    2: Packing("Q4_0", 32, 18, _q4_0),
    3: Packing("Q4_1", 32, 20, _q4_1),
    8: Packing("Q8_0", 32, 34, _q8_0),
}


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor, not yet unpacked."""

    shape: tuple[int, ...]  # in NumPy's order: the last axis is contiguous
    packing: Packing
    blocks: np.ndarray  # (blocks, nbytes) uint8, a view of the file

    def array(self) -> np.ndarray:
        """The weights in float32, of the shape `shape`; NaN or infinite if a scale is damaged."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.packing.unpack(self.blocks).reshape(self.shape)


def read_gguf(path: str | Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """A file's metadata, and its tensors by name, mapped into memory and not yet unpacked.

    Raises FileNotFoundError, or ValueError if the file is no whole GGUF file or a tensor's type is
    not supported.
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
            raise ValueError(f"{path}: {key!r:.80} stands twice in the metadata")
        about[key] = reader.value(reader.number("I"))
    listed = [reader.tensor() for _ in range(tensors)]
    if len(listed) > len({name for name, *_ in listed}):
        raise ValueError(f"{path}: a tensor's name stands twice in the list")
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
    """A tensor of the list as a GGUFTensor; raises ValueError if its blocks are not in the file."""
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
    return GGUFTensor(shape, packing, data[start + offset : end].reshape(-1, packing.nbytes))


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
        """The next number, which counts items of at least `least` bytes each.

        Raises ValueError if so many items cannot be in the file.
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
        # a memoryview: as small as in the file, and unlike an array equal to no text
        return np.frombuffer(self.bytes(n * size), f"<{NUMBERS[inner]}").data

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """The next entry in the list of tensors  ->  name, shape, type, offset."""
        name, axes = printable(self.text()), self.number("I")
        if not 1 <= axes <= 4:
            raise ValueError(f"{self.path}: {name} has {axes} axes, wanted 1 to 4")
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        return name, shape, self.number("I"), self.number("Q")
