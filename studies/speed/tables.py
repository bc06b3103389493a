"""Records of the comparison with PyTorch as lines of text."""

from collections.abc import Iterator, Sequence

from minilora.bench import tables
from minilora.bench.tables import Column, Record, at, ms, ratio, table, title
from minilora.bench.turns import OURS
from minilora.support.terminal import fill

from .sides import COMPILED, JAX, PACKED, PADDED, PADDED_COMPILED, SIDES, TORCH
from .steps import shares_of_peak

WAYS = ("three loops", "reordered", "tiled", "register tile", "BLAS")  # of a product
WHOLE, PERCENT = "{:.0f}".format, lambda share: f"{100 * share:.0f} %"
KERNELS: Sequence[Column] = (
    *tables.KERNEL,
    ("numpy", 7, tables.rate("numpy")),
    ("torch", 7, tables.rate(TORCH)),
    ("best / here", 18, at("ratio", form=ratio)),
)
STEPS: Sequence[Column] = (
    ("size", 8, at("size", form=str)),
    ("technique", 17, title),
    ("ms here", 8, at("sides", OURS, "median", form=ms)),
    *(
        (side.removeprefix("torch "), 8, at("sides", side, "median", form=ms))
        for side in (*SIDES[1:], COMPILED, JAX)
    ),
    ("torch / here", 18, at("ratios", "peer", form=ratio)),
    ("oneDNN / here", 18, at("ratios", SIDES[3], form=ratio)),
    ("compile / here", 18, at("ratios", COMPILED, form=ratio)),
    ("jax / here", 18, at("ratios", JAX, form=ratio)),
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
    ("compile", 8, at("sides", PADDED_COMPILED, "seconds")),
    ("padded / here", 19, at("ratios", PADDED, form=ratio)),
    ("packed / here", 19, at("ratios", PACKED, form=ratio)),
    ("compile / here", 19, at("ratios", PADDED_COMPILED, form=ratio)),
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
LADDER: Sequence[Column] = (
    ("M, K, N", 14, lambda r: " ".join(map(str, r["sizes"]))),
    ("FLOP/byte", 9, lambda r: f"{r['flops'] / r['bytes']:.1f}"),
    *((w, 13, lambda r, w=w: f"{r['flops'] / r['seconds'][w] / 1e9:.1f}") for w in WAYS),
)


def kernels(measured: Record, width: int) -> Iterator[str]:
    """Our kernels beside NumPy's and torch's."""
    yield from table(KERNELS, measured["kernels"], width)
    best = f"the faster of {tables.blas(measured)} and torch"
    yield fill(f"products: {measured['mean']:.2f} of {best}, in geometric mean", width)
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
        return
    yield from table([c for c in columns if set(map(c[2], measured)) != {"–"}], measured, width)
    reasons = {reason for r in measured for reason in r.get("left out", {}).values()}
    yield from (fill(f"–: {reason}", width) for reason in sorted(reasons))


def growth(measured: Sequence[Record], width: int) -> Iterator[str]:
    """How time and bytes grow along each axis."""
    yield from table(GROWTH, measured, width)


def ladder(measured: Record, width: int) -> Iterator[str]:
    """The ways to write a product; below, limits, more threads, fused kernels, new arrays."""
    if not measured:
        yield "Numba's kernels are not in use: no ladder"
        return
    yield from table(LADDER, measured["products"], width)
    yield from (fill(line, width) for line in _below_ladder(measured))


def _below_ladder(measured) -> Iterator[str]:
    flops = measured["products"][-1]["flops"]
    for count, p in measured["peaks"].items():
        limits = f"{p['flops'] / 1e9:.0f} GFLOP/s in L1, {p['bandwidth'] / 1e9:.0f} GB/s"
        yield f"{count} thread(s): {limits}"
    for way, seconds in measured["together"].items():
        yield f"{way} on {measured['threads']} threads: {flops / seconds / 1e9:.0f} GFLOP/s"
    for what, t in measured["fused"].items():
        yield f"{what}: {ms(t['in one'])} ms, in pieces {ms(t['in pieces'])} ms"
    for way, p in measured["pages"].items():
        faults = f"{p['faults']:.0f} page faults"
        yield f"an array of 64 MB, {way}: {ms(p['seconds'])} ms, {faults}"
