"""Records of the bench as lines of text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import cases
from .steps import shares_of_peak
from .turns import SIDES, UNIT

Column = tuple[str, int, Callable[[Mapping[str, Any]], str]]  # head, width, record -> cell


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.{1 if seconds < 1 else 0}f}"


def _side(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda r: _ms(r["sides"][name]["median"]) if name in r["sides"] else "–"


def _range(found: Mapping[str, float] | None) -> str:
    if not found:
        return "–"
    return f"{found['median']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


STEPS: Sequence[Column] = (
    ("size", 8, lambda r: r["size"]),
    ("technique", 17, lambda r: cases.CASES[r["case"]].title),
    ("ms here", 8, _side(SIDES[0])),
    ("sdpa", 8, _side(SIDES[1])),
    ("eager", 8, _side(SIDES[2])),
    ("oneDNN", 8, _side(SIDES[3])),
    ("torch / here", 18, lambda r: _range(r["ratios"].get("peer"))),
    ("oneDNN / here", 18, lambda r: _range(r["ratios"].get(SIDES[3]))),
    ("amx", 7, _side(UNIT)),
    ("torch / amx", 18, lambda r: _range(r["ratios"].get("peer over unit"))),
    ("of peak", 7, lambda r: _share(r["share_of_peak"])),
    ("memory", 7, lambda r: _share(r["ratios"].get("memory above import"))),
    ("process", 7, lambda r: _share(r["ratios"].get("memory of the process"))),
)

METHODS: Sequence[Column] = (
    ("technique", 17, lambda r: cases.CASES[r["case"]].title),
    ("ms", 8, lambda r: _ms(r["median"])),
    ("least", 8, lambda r: _ms(r["least"])),
    ("over LoRA", 18, lambda r: _range(r["ratio"])),
)


def _rate(side: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(r):
        found = r["sides"].get(side)
        return f"{r['flops'] / found['median'] / 1e9:.0f}" if found else "–"

    return cell


KERNELS: Sequence[Column] = (
    ("kernel", 18, lambda r: r["name"]),
    ("sizes", 16, lambda r: " ".join(map(str, r["sizes"]))),
    ("µs here", 9, lambda r: f"{r['sides']['minilora']['median'] * 1e6:.0f}"),
    ("GFLOP/s", 7, _rate("minilora")),
    ("amx", 7, _rate(UNIT)),
    ("numpy", 7, _rate("numpy")),
    ("torch", 7, _rate("torch")),
    ("best / here", 18, lambda r: _range(r["ratio"])),
)

GROWTH: Sequence[Column] = (
    ("axis", 8, lambda r: r["axis"]),
    ("values", 20, lambda r: " ".join(str(p["value"]) for p in r["points"])),
    ("ms", 36, lambda r: " ".join(_ms(p["seconds"]) for p in r["points"])),
    ("exponent", 8, lambda r: f"{r['exponents']['seconds']:.2f}"),
    ("of FLOPs", 8, lambda r: f"{r['exponents']['flops']:.2f}"),
    ("of bytes", 8, lambda r: f"{r['exponents']['bytes']:.2f}"),
    ("expected", 8, lambda r: f"{r['exponents']['predicted']:.2f}"),
)


def _rung(way: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda r: f"{r['flops'] / r['seconds'][way] / 1e9:.1f}"


WAYS = ("three loops", "reordered", "tiled", "register tile", "BLAS")  # of a product, in GFLOP/s
LADDER: Sequence[Column] = (
    ("M, K, N", 14, lambda r: " ".join(map(str, r["sizes"]))),
    ("FLOP/byte", 9, lambda r: f"{r['flops'] / r['bytes']:.1f}"),
    *((way, 13, _rung(way)) for way in WAYS),
)


def rows_of_methods(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each technique of one size."""
    for name, found in record["sides"].items():
        yield {"case": name, "ratio": record["ratios"][name], **found}


def lines(part: str, found: Any) -> Iterator[str]:
    """What a part of a record found, as it was printed when it was measured."""
    if part == "methods":
        for record in found:
            yield from (record["size"], head(METHODS))
            yield from (row(METHODS, each) for each in rows_of_methods(record))
        return
    columns, inside, after = {
        "kernels": (KERNELS, "kernels", about_kernels),
        "steps": (STEPS, None, None),
        "growth": (GROWTH, None, None),
        "ladder": (LADDER, "products", about_ladder),
    }[part]
    records = found[inside] if inside else found
    if part == "steps":
        records = shares_of_peak(records)
    yield head(columns)
    yield from (row(columns, record) for record in records)
    if after:
        yield after(found)


def head(columns: Sequence[Column]) -> str:
    """The line of names."""
    return _line([name for name, _, _ in columns], columns)


def row(columns: Sequence[Column], record: Mapping[str, Any]) -> str:
    """One record as a line."""
    return _line([cell(record) for _, _, cell in columns], columns)


def _line(cells: Sequence[str], columns: Sequence[Column]) -> str:
    wide = [
        cell.ljust(width) if i < 1 or columns[i][0] == "technique" else cell.rjust(width)
        for i, (cell, (_, width, _)) in enumerate(zip(cells, columns))
    ]
    return "  ".join(wide).rstrip()


def about(facts: Mapping[str, Any]) -> str:
    """The machine in two or three lines."""
    kernels = ", ".join(f"{k} {v}" for k, v in facts["kernels"].items())
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    lines = [f"{facts['processor']}, {facts['cores']} cores; {kernels}", versions]
    if facts["variables"]:
        lines.append(", ".join(f"{k}={v}" for k, v in facts["variables"].items()))
    return "\n".join(lines) + "\n"


def about_kernels(found: Mapping[str, Any]) -> str:
    """What the products come to, beside the others' and beside the peak."""
    peak = found["peaks"]["flops"]
    lines = [
        f"products: {found['mean']:.2f} of the faster of NumPy's BLAS "
        f"({found['blas'].get('kernels', found['blas']['name'])}) and torch, in geometric mean"
    ]
    if found.get("mean on the unit"):
        lines[0] += f"; on the matrix unit {found['mean on the unit']:.2f}"
    rungs = ", ".join(f"{k} {v / 1e9:.1f}" for k, v in found["ladder"].items())
    if rungs:
        lines.append(f"a product of 512 by 512, GFLOP/s: {rungs}")
    if peak:
        lines.append(f"the register tile in L1: {peak / 1e9:.0f} GFLOP/s over all threads")
    return "\n".join(lines)


def about_ladder(found: Mapping[str, Any]) -> str:
    """The machine's limits, two threads, fusing, and memory that is given back, as lines."""
    flops = found["products"][-1]["flops"]
    lines = [
        f"{count} thread(s): {p['flops'] / 1e9:.0f} GFLOP/s in L1, {p['bandwidth'] / 1e9:.0f} GB/s"
        for count, p in found["peaks"].items()
    ]
    for way, seconds in found["together"].items():
        lines.append(f"{way} on {found['threads']} threads: {flops / seconds / 1e9:.0f} GFLOP/s")
    for work, taken in found["fused"].items():
        lines.append(f"{work}: {_ms(taken['in one'])} ms, in pieces {_ms(taken['in pieces'])} ms")
    for way, taken in found["pages"].items():
        faults = f"{taken['faults']:.0f} page faults"
        lines.append(f"an array of 64 MB, {way}: {_ms(taken['seconds'])} ms, {faults}")
    return "\n".join(lines)
