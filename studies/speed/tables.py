"""Records of the comparison with PyTorch as lines of text."""

from collections.abc import Iterator, Sequence

from minilora.bench import tables
from minilora.bench.tables import Column, Record, at, ms, ratio, table, title
from minilora.bench.turns import OURS
from minilora.support.terminal import fill

from .sides import PACKED, PADDED, SIDES, TORCH, UNIT
from .steps import shares_of_peak

WHOLE, PERCENT = "{:.0f}".format, lambda share: f"{100 * share:.0f} %"
KERNELS: Sequence[Column] = (
    *tables.KERNEL,
    ("amx", 7, tables.rate(UNIT)),
    ("numpy", 7, tables.rate("numpy")),
    ("torch", 7, tables.rate(TORCH)),
    ("best / here", 18, at("ratio", form=ratio)),
)
STEPS: Sequence[Column] = (
    ("size", 8, at("size", form=str)),
    ("technique", 17, title),
    ("ms here", 8, at("sides", OURS, "median", form=ms)),
    *((s.removeprefix("torch "), 8, at("sides", s, "median", form=ms)) for s in SIDES[1:]),
    ("torch / here", 18, at("ratios", "peer", form=ratio)),
    ("oneDNN / here", 18, at("ratios", SIDES[3], form=ratio)),
    ("amx", 7, at("sides", UNIT, "median", form=ms)),
    ("torch / amx", 18, at("ratios", "peer over unit", form=ratio)),
    ("of peak", 7, at("share_of_peak", form=PERCENT)),
    ("memory", 7, at("ratios", "memory above import", form=PERCENT)),
    ("process", 7, at("ratios", "memory of the process", form=PERCENT)),
)
MASKED: Sequence[Column] = (
    ("batches", 15, at("training", form=str)),
    ("technique", 17, title),
    ("rows", 5, at("rows", "all", form=WHOLE)),
    ("matter", 6, at("rows", "matter", form=WHOLE)),
    ("targets", 7, at("rows", "targets", form=WHOLE)),
    ("steps", 5, at("steps", form=str)),
    ("s here", 7, at("sides", OURS, "seconds")),
    ("padded", 7, at("sides", PADDED, "seconds")),
    ("packed", 7, at("sides", PACKED, "seconds")),
    ("padded / here", 19, at("ratios", PADDED, form=ratio)),
    ("packed / here", 19, at("ratios", PACKED, form=ratio)),
    ("amx", 7, at("sides", UNIT, "seconds")),
    ("losses apart", 12, lambda r: f"{max(r['apart'].values()):.0e}"),
)
GROWTH: Sequence[Column] = (
    ("axis", 8, at("axis", form=str)),
    ("values", 20, lambda r: " ".join(str(p["value"]) for p in r["points"])),
    ("ms", 36, lambda r: " ".join(ms(p["seconds"]) for p in r["points"])),
    ("exponent", 8, at("exponents", "seconds")),
    ("of FLOPs", 8, at("exponents", "flops")),
    ("of bytes", 8, at("exponents", "bytes")),
    ("expected", 8, at("exponents", "predicted")),
)


def kernels(measured: Record, width: int) -> Iterator[str]:
    """Our kernels beside NumPy's and torch's."""
    yield from table(KERNELS, measured["kernels"], width)
    unit, ladder = measured.get("mean on the unit"), measured.get("ladder")
    yield fill(
        f"products: {measured['mean']:.2f} of the faster of {tables.blas(measured)} and torch, in "
        "geometric mean" + (f"; on the matrix unit {unit:.2f}" if unit else ""),
        width,
    )
    if ladder:
        rates = ", ".join(f"{way} {rate / 1e9:.1f}" for way, rate in ladder.items())
        yield fill(f"a product of 512 by 512, GFLOP/s: {rates}", width)
    yield from tables.tile(measured, width)


def steps(measured: Sequence[Record], width: int) -> Iterator[str]:
    """Steps beside PyTorch's."""
    yield from _beside_torch(STEPS, shares_of_peak(measured), width)


def masked(measured: Sequence[Record], width: int) -> Iterator[str]:
    """Trainings on batches with padding, beside PyTorch's."""
    yield from _beside_torch(MASKED, measured, width)


def _beside_torch(columns, measured, width) -> Iterator[str]:
    if not measured:
        yield "PyTorch and PEFT are not installed: no comparison with them"
    else:
        yield from table(columns, measured, width)


def growth(measured: Sequence[Record], width: int) -> Iterator[str]:
    """How time and bytes grow along each axis."""
    yield from table(GROWTH, measured, width)
