"""Records of the bench as lines of text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..support.terminal import ANY, GAP, blocks, fill
from . import cases
from .steps import shares_of_peak
from .turns import OURS, PACKED, PADDED, SIDES, UNIT

Record = Mapping[str, Any]
Column = tuple[str, int, Callable[[Record], str]]  # head, width, record -> cell


def _at(*path: str, form: Callable[[Any], str] = "{:.2f}".format) -> Callable[[Record], str]:
    """The cell for a value in a record, at this path of names; "–" where the record has none."""

    def cell(record):
        value: Any = record
        for name in path:
            value = None if value is None else value.get(name)
        return "–" if value is None else form(value)

    return cell


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.{1 if seconds < 1 else 0}f}"


def _rate(side: str) -> Callable[[Record], str]:
    """GFLOP/s of a side."""
    return lambda r: (
        f"{r['flops'] / r['sides'][side]['median'] / 1e9:.0f}" if side in r["sides"] else "–"
    )


def _ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _title(record: Record) -> str:
    return cases.CASES[record["case"]].title


WHOLE, PERCENT = "{:.0f}".format, lambda share: f"{100 * share:.0f} %"
ON_MASKED: Sequence[Column] = (
    ("batches", 15, _at("training", form=str)),
    ("technique", 17, _title),
    ("rows", 5, _at("rows", "all", form=WHOLE)),
    ("matter", 6, _at("rows", "matter", form=WHOLE)),
    ("targets", 7, _at("rows", "targets", form=WHOLE)),
    ("steps", 5, _at("steps", form=str)),
    ("s here", 7, _at("sides", OURS, "seconds")),
    ("padded", 7, _at("sides", PADDED, "seconds")),
    ("packed", 7, _at("sides", PACKED, "seconds")),
    ("padded / here", 19, _at("ratios", PADDED, form=_ratio)),
    ("packed / here", 19, _at("ratios", PACKED, form=_ratio)),
    ("amx", 7, _at("sides", UNIT, "seconds")),
    ("losses apart", 12, lambda r: f"{max(r['apart'].values()):.0e}"),
)
WAYS = ("three loops", "reordered", "tiled", "register tile", "BLAS")  # of a product
COLUMNS: dict[str, Sequence[Column]] = {
    "kernels": (
        ("kernel", 18, _at("name", form=str)),
        ("sizes", 16, lambda r: " ".join(map(str, r["sizes"]))),
        ("µs here", 9, lambda r: f"{r['sides'][OURS]['median'] * 1e6:.0f}"),
        ("GFLOP/s", 7, _rate(OURS)),
        ("amx", 7, _rate(UNIT)),
        ("numpy", 7, _rate("numpy")),
        ("torch", 7, _rate("torch")),
        ("best / here", 18, _at("ratio", form=_ratio)),
    ),
    "steps": (
        ("size", 8, _at("size", form=str)),
        ("technique", 17, _title),
        ("ms here", 8, _at("sides", OURS, "median", form=_ms)),
        *(
            (side.removeprefix("torch "), 8, _at("sides", side, "median", form=_ms))
            for side in SIDES[1:]
        ),
        ("torch / here", 18, _at("ratios", "peer", form=_ratio)),
        ("oneDNN / here", 18, _at("ratios", SIDES[3], form=_ratio)),
        ("amx", 7, _at("sides", UNIT, "median", form=_ms)),
        ("torch / amx", 18, _at("ratios", "peer over unit", form=_ratio)),
        ("of peak", 7, _at("share_of_peak", form=PERCENT)),
        ("memory", 7, _at("ratios", "memory above import", form=PERCENT)),
        ("process", 7, _at("ratios", "memory of the process", form=PERCENT)),
    ),
    "words": ON_MASKED,
    "instructions": ON_MASKED,
    "methods": (
        ("technique", 17, _title),
        ("ms", 8, _at("median", form=_ms)),
        ("least", 8, _at("least", form=_ms)),
        ("over LoRA", 18, _at("ratio", form=_ratio)),
    ),
    "growth": (
        ("axis", 8, _at("axis", form=str)),
        ("values", 20, lambda r: " ".join(str(p["value"]) for p in r["points"])),
        ("ms", 36, lambda r: " ".join(_ms(p["seconds"]) for p in r["points"])),
        ("exponent", 8, _at("exponents", "seconds")),
        ("of FLOPs", 8, _at("exponents", "flops")),
        ("of bytes", 8, _at("exponents", "bytes")),
        ("expected", 8, _at("exponents", "predicted")),
    ),
    "ladder": (
        ("M, K, N", 14, lambda r: " ".join(map(str, r["sizes"]))),
        ("FLOP/byte", 9, lambda r: f"{r['flops'] / r['bytes']:.1f}"),
        *((w, 13, lambda r, w=w: f"{r['flops'] / r['seconds'][w] / 1e9:.1f}") for w in WAYS),
    ),
}


def lines(part: str, measured: Any, width: int = ANY) -> Iterator[str]:
    """The lines that were printed when this part was measured."""
    records = measured
    if part in ("kernels", "ladder"):
        records = measured["kernels" if part == "kernels" else "products"]
    elif part == "steps":
        records = shares_of_peak(measured)
    for i, record in enumerate(records):
        yield from rows(part, record, first=not i, width=width)
    yield from others(part, records, width)
    yield from closing(part, measured, width)


def rows(part: str, record: Record, first: bool, width: int = ANY) -> Iterator[str]:
    """One record as lines; before the first, the names of the columns.

    In a narrow terminal these are the first columns; `others` has those for which there is no room.
    """
    columns, each = _tables(part, width)[0], [record]
    if part == "methods":  # a table for each size
        yield record["size"]
        first, ratios = True, record["ratios"]
        each = [{"case": c, "ratio": ratios[c], **t} for c, t in record["sides"].items()]
    yield from _table(columns, each, first)


def others(part: str, records: Sequence[Record], width: int) -> Iterator[str]:
    """The further tables that a narrow terminal needs, when all records are known."""
    for columns in _tables(part, width)[1:] if records else ():
        yield ""
        yield from _table(columns, records, True)


def _tables(part: str, width: int) -> list[list[Column]]:
    """The columns of a part, in tables of at most `width`, each with those that name a row."""
    columns = COLUMNS[part]
    keep = 2 if columns[1][0] in ("technique", "sizes") else 1
    found = blocks([wide + GAP for _, wide, _ in columns], width + GAP, keep)
    return [[columns[i] for i in block] for block in found]


def _table(columns: Sequence[Column], records: Sequence[Record], head: bool) -> Iterator[str]:
    if head:
        yield _line(columns, [name for name, _, _ in columns])
    yield from (_line(columns, [cell(row) for _, _, cell in columns]) for row in records)


def _line(columns: Sequence[Column], cells: Sequence[str]) -> str:
    left = ("technique", columns[0][0])
    return (" " * GAP).join(
        cell.ljust(width) if name in left else cell.rjust(width)
        for cell, (name, width, _) in zip(cells, columns)
    ).rstrip()


def about(facts: Record, width: int = ANY) -> str:
    """The machine in two or three lines."""
    kernels = ", ".join(f"{k} {v}" for k, v in facts["kernels"].items())
    texts = [
        f"{facts['processor']}, {facts['cores']} cores; {kernels}",
        ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
        ", ".join(f"{k}={v}" for k, v in facts["variables"].items()),
    ]
    return "\n".join(fill(text, width) for text in filter(None, texts)) + "\n"


def closing(part: str, measured: Any, width: int = ANY) -> Iterator[str]:
    """The lines below the table of a part, or a line that says why nothing was measured."""
    if not measured:
        without = "PyTorch and PEFT are not installed: no comparison with them"
        yield "Numba's kernels are not in use: no ladder" if part == "ladder" else without
    elif part in ("kernels", "ladder"):
        below = _below_kernels if part == "kernels" else _below_ladder
        yield from (fill(line, width) for line in below(measured))


def _below_kernels(measured) -> Iterator[str]:
    """The speed of the products, compared with the other sides and with the peak."""
    blas, unit = measured["blas"], measured.get("mean on the unit")
    yield (
        f"products: {measured['mean']:.2f} of the faster of NumPy's BLAS "
        f"({blas.get('kernels', blas['name'])}) and torch, in geometric mean"
        + (f"; on the matrix unit {unit:.2f}" if unit else "")
    )
    if measured["ladder"]:
        rates = ", ".join(f"{way} {rate / 1e9:.1f}" for way, rate in measured["ladder"].items())
        yield f"a product of 512 by 512, GFLOP/s: {rates}"
    if peak := measured["peaks"]["flops"]:
        yield f"the register tile in L1: {peak / 1e9:.0f} GFLOP/s over all threads"


def _below_ladder(measured) -> Iterator[str]:
    """The machine's limits, more threads, fused kernels, and new arrays."""
    flops = measured["products"][-1]["flops"]
    for count, p in measured["peaks"].items():
        limits = f"{p['flops'] / 1e9:.0f} GFLOP/s in L1, {p['bandwidth'] / 1e9:.0f} GB/s"
        yield f"{count} thread(s): {limits}"
    for way, seconds in measured["together"].items():
        yield f"{way} on {measured['threads']} threads: {flops / seconds / 1e9:.0f} GFLOP/s"
    for what, t in measured["fused"].items():
        yield f"{what}: {_ms(t['in one'])} ms, in pieces {_ms(t['in pieces'])} ms"
    for way, p in measured["pages"].items():
        faults = f"{p['faults']:.0f} page faults"
        yield f"an array of 64 MB, {way}: {_ms(p['seconds'])} ms, {faults}"
