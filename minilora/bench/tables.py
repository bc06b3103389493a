"""Records of the bench as lines of text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..support import terminal
from ..support.terminal import ANY, GAP, fill
from . import cases
from .turns import OURS

Record = Mapping[str, Any]
Column = tuple[str, int, Callable[[Record], str]]  # head, width, record -> cell


def at(*path: str, form: Callable[[Any], str] = "{:.2f}".format) -> Callable[[Record], str]:
    """The cell of the value at this path of names in a record; "–" if the record has none."""

    def cell(record):
        value: Any = record
        for name in path:
            value = None if value is None else value.get(name)
        return "–" if value is None else form(value)

    return cell


def ms(seconds: float) -> str:
    """Seconds in milliseconds."""
    return f"{seconds * 1e3:.{1 if seconds < 1 else 0}f}"


def ratio(times: Mapping[str, float]) -> str:
    """A ratio, with the lowest and the highest ratio of a single round."""
    return f"{times['median']:.2f} ({times['low']:.2f}–{times['high']:.2f})"


def title(record: Record) -> str:
    """The technique of a record."""
    return cases.case(record["case"]).title


def rate(side: str) -> Callable[[Record], str]:
    """GFLOP/s of a side."""
    return lambda r: (
        f"{r['flops'] / r['sides'][side]['median'] / 1e9:.0f}" if side in r["sides"] else "–"
    )


KERNEL: Sequence[Column] = (
    ("kernel", 18, at("name", form=str)),
    ("sizes", 16, lambda r: " ".join(map(str, r["sizes"]))),
    ("µs here", 9, lambda r: f"{r['sides'][OURS]['median'] * 1e6:.0f}"),
    ("GFLOP/s", 7, rate(OURS)),
)
KERNELS = (*KERNEL, ("numpy", 7, rate("numpy")), ("numpy / here", 20, at("ratio", form=ratio)))
METHODS: Sequence[Column] = (
    ("technique", 17, title),
    ("ms", 8, at("median", form=ms)),
    ("least", 8, at("least", form=ms)),
    ("over LoRA", 18, at("ratio", form=ratio)),
)
WHERE: Sequence[Column] = (
    ("row", 29, at("row", form=str)),
    ("calls", 5, at("calls", form=str)),
    ("ms", 8, at("seconds", form=lambda s: f"{s * 1e3:.3f}")),
    ("share", 5, at("share", form="{:.1%}".format)),
    ("MFLOP", 8, at("flops", form=lambda n: f"{n / 1e6:.2f}")),
    ("MB", 7, at("bytes", form=lambda n: f"{n / 1e6:.2f}")),
    ("roof, ms", 8, at("allowed", form=lambda s: f"{s * 1e3:.3f}")),
    ("of roof", 7, lambda r: f"{r['allowed'] / r['seconds']:.0%}" if "allowed" in r else "–"),
)


def table(columns: Sequence[Column], records: Sequence[Record], width: int = ANY) -> Iterator[str]:
    """A row for each record; in a narrow terminal several tables, each with the row's name."""
    heads = [head for head, _, _ in columns]
    rows = [heads, *([cell(record) for _, _, cell in columns] for record in records)]
    widths = [wide + GAP * (i > 0) for i, (_, wide, _) in enumerate(columns)]
    left = [i for i, head in enumerate(heads) if i == 0 or head == "technique"]
    keep = 2 if heads[1] in ("technique", "sizes") else 1
    yield from terminal.table(rows, widths, width, left, keep)


def about(facts: Record, width: int = ANY) -> str:
    """The machine in two or three lines."""
    kernels = ", ".join(f"{k} {v}" for k, v in facts["kernels"].items())
    texts = [
        f"{facts['processor']}, {facts['cores']} cores; {kernels}",
        ", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
        ", ".join(f"{k}={v}" for k, v in facts["variables"].items()),
    ]
    return "\n".join(fill(text, width) for text in filter(None, texts)) + "\n"


def kernels(measured: Record, width: int = ANY) -> Iterator[str]:
    """Our kernels beside NumPy's."""
    yield from table(KERNELS, measured["kernels"], width)
    mean = f"{measured['mean']:.2f} times as fast as {blas(measured)}, in geometric mean"
    yield fill(f"products: {mean}", width)
    yield from tile(measured, width)


def blas(measured: Record) -> str:
    """The name of NumPy's BLAS."""
    chosen = measured["blas"]
    return f"NumPy's BLAS ({chosen.get('kernels', chosen['name'])})"


def tile(measured: Record, width: int = ANY) -> Iterator[str]:
    """The register tile's speed, if it was measured."""
    if peak := measured["peaks"]["flops"]:
        text = f"the register tile in L1: {peak / 1e9:.0f} GFLOP/s over all threads"
        yield fill(text, width)


def methods(measured: Sequence[Record], width: int = ANY) -> Iterator[str]:
    """A table of the techniques for each size."""
    for record in measured:
        yield record["size"]
        ratios, sides = record["ratios"], record["sides"].items()
        each = [{"case": name, "ratio": ratios[name], **times} for name, times in sides]
        yield from table(METHODS, each, width)


def where(measured: Record, width: int = ANY) -> Iterator[str]:
    """The ledger of time of a step."""
    yield "{technique} on {base}, {batch:,} rows".format(**measured)
    yield from table(WHERE, measured["rows"], width)
    step, made, peaks = measured["step"], measured["allocation"], measured["peaks"]
    ratio, flops = step["sum"] / step["untraced"], peaks["flops"]
    rate = f"{flops / 1e9:.0f} GFLOP/s, " if flops else ""
    for text in (
        f"sum: {step['sum'] * 1e3:.2f} ms, {ratio:.3f} of an untraced step",
        f"of it to allocate {made['arrays']} arrays: {made['seconds'] * 1e3:.2f} ms",
        f"roof: {rate}{peaks['bandwidth'] / 1e9:.1f} GB/s from memory (caches are faster)",
    ):
        yield fill(text, width)
