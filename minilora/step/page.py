"""Steps as one interactive HTML file: the template page.html and the data that it draws."""

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..support.files import write_atomically
from .watch import Function, content

LIMIT, SIDE = 8192, 64  # larger arrays are drawn in at most SIDE x SIDE blocks
TEMPLATE = Path(__file__).with_name("page.html")


def write(path: str | Path, data: Mapping[str, Any]) -> Path:
    """Write the page of these data, which may contain arrays and Functions."""
    pictures = Pictures()
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=pictures.json)
    arrays = json.dumps(pictures.facts, separators=(",", ":"))
    head = f'{{"arrays":{arrays},{text[1:]}'.encode()
    packed = gzip.compress(len(head).to_bytes(4, "little") + head + pictures.codes, 9, mtime=0)
    html = TEMPLATE.read_text("utf-8").replace("__DATA__", base64.b64encode(packed).decode())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html.encode())
    return Path(path)


class Pictures:
    """The arrays of a page, equal ones once: facts for JSON, and a byte for each number."""

    def __init__(self):
        self.numbers: dict[Any, int] = {}  # content of an array -> its number
        self.facts: list[dict[str, Any]] = []
        self.codes = bytearray()

    def json(self, thing) -> Any:
        """For json.dumps: an array as its number, a function by its fields."""
        if isinstance(thing, Function):
            return {name: value for name, value in vars(thing).items() if name != "function"}
        key = content(thing)
        if key not in self.numbers:
            self.numbers[key] = len(self.facts)
            facts, codes = picture(thing)
            self.facts.append(facts | ({"at": len(self.codes)} if codes else {}))
            self.codes += codes
        return self.numbers[key]


def picture(a: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """Facts about an array, and a code q for each number v or block; no code where all are 0.

    q = round(127 sign(v) log(1 + 255 |v| / max) / log 256), an int8; -128 where v is not finite. A
    block is shown by its number of largest absolute value.
    """
    if a.ndim == 0:
        return {"value": _digits(a[()], 6)}, b""
    finite = np.isfinite(a)
    v = np.where(finite, a, 0).astype(np.float64)
    low, high = (float(edge(v, initial=0)) for edge in (np.min, np.max))
    size = max(-low, high)
    facts: dict[str, Any] = {"shape": a.shape, "max": _digits(size), "low": _digits(low)}
    facts |= {"high": _digits(high)}
    if not finite.all():
        facts["hidden"] = int((~finite).sum())
    if a.size <= (16 if a.dtype.kind == "f" else 64):
        facts["exact"] = [_digits(x) for x in v.ravel()]
    if a.size > LIMIT:
        v, facts["block"] = blocks(v)
        facts["grid"], finite = v.shape, np.ones(v.shape, bool)
    if size == 0 and finite.all():
        return facts, b""
    codes = 127 * np.sign(v) * np.log1p(255 * np.abs(v) / (size or 1)) / np.log(256)
    return facts, np.where(finite, codes.round(), -128).astype(np.int8).tobytes()


def blocks(v: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """At most SIDE x SIDE numbers of an array, one per block; a block's rows and columns."""
    v = v.reshape(-1, v.shape[-1])
    tall, wide = (-(-n // SIDE) for n in v.shape)
    padded = np.pad(v, [(0, -v.shape[0] % tall), (0, -v.shape[1] % wide)])
    rows, columns = padded.shape[0] // tall, padded.shape[1] // wide
    cut = padded.reshape(rows, tall, columns, wide).swapaxes(1, 2).reshape(rows, columns, -1)
    at = np.abs(cut).argmax(axis=2)[..., None]
    return np.take_along_axis(cut, at, axis=2)[..., 0], (tall, wide)


def _digits(number, digits: int = 4) -> float:
    return float(f"{float(number):.{digits}g}")
