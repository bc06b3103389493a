"""The ledger as text: tables of bytes, and which batches fit into a memory."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ..formats.models import load_model
from ..llama.model import ModelConfig
from ..llama.rows import last_targets
from ..methods import METHODS
from ..ops.loss import IGNORED
from ..support.plots import human
from ..support.terminal import ANY, NOTE, fill, table
from ..tuning.adapters import attach
from .saved import by_kind
from .step import CATEGORIES, Batch, Ledger, largest, ledger, measure

Settings = Mapping[str, Mapping[str, Any]]  # method -> keywords for `ledger`
ROWS, TOKENS = 2**12, 2**17  # the largest batch and length that `fits` tries
PARTS = {  # field of a Ledger -> its meaning
    "frozen": "weights that do not train",
    "trainable": "weights that train",
    "shared": "projections that all layers share",
    "moved": "what a step rule moves or remembers",
    "gradients": "of the weights that train",
    "optimizer": "AdamW's two moments",
    "activations": "saved for backward, listed below",
    "scratch": "RoPE's tables and the rows' angles",
    "transient": "the rest of the peak",
    "peak": "the most bytes held at one time",
    "base_kept": "base arrays that detach gives back",
}


def ledgers(
    config: ModelConfig, settings: Settings, batch: int, seq: int, mixed: bool = False
) -> dict[str, Ledger]:
    """The predicted bytes of each method."""
    return {
        name: ledger(config, batch, seq, method=name, mixed=mixed, **how)
        for name, how in settings.items()
    }


def measured(
    model: str, settings: Settings, batch: int, seq: int, forms: Mapping[str, str]
) -> dict[str, Ledger]:
    """The measured bytes of each method; forms: of the weights. Raises as `load_model`."""
    base = load_model(model, **forms)
    own = {n: {k: v for k, v in how.items() if k not in forms} for n, how in settings.items()}
    return {n: measure(attach(base, n, **how), batch, seq) for n, how in own.items()}


def overview(
    predicted: Mapping[str, Ledger],
    measured: Mapping[str, Ledger],
    details: bool = False,
    mixed: bool = False,
    width: int = ANY,
) -> Iterator[str]:
    """A row for each method, and measured bytes below it, if any. details: list every part too."""
    verdicts = [""] if measured else []  # a column without a name
    rows = [["method", *CATEGORIES, "peak", *verdicts]]
    for name, row in predicted.items():
        rows.append([METHODS[name].title, *_cells(row), *verdicts])
        if real := measured.get(name):
            same = all(row[c] == real[c] for c in CATEGORIES)
            verdict = "the same bytes" if same else "NOT the same bytes"
            off = real.peak / row.peak - 1
            rows.append(["  measured", *_cells(real), f" {verdict}, peak {off:+.1%}"])
    yield from table(rows, [19, *[13] * 5, *[0] * len(verdicts)], width, left=(0, 6))
    moments = "master copy and two moments" if mixed else "two moments"
    yield fill(
        f"weights: frozen, trained, shared, moved; optimizer: {moments}; peak: the most bytes "
        "held at one time, with weights and optimizer. 1 KiB = 1,024 bytes.",
        min(width, NOTE),
    )
    kept = {name: row.base_kept for name, row in predicted.items() if row.base_kept}
    if kept and not details:
        listed = ", ".join(f"{METHODS[name].title} {human(n)}" for name, n in kept.items())
        yield fill(f"base kept, in addition, so that detach gives it back: {listed}", width)
    for row in predicted.values() if details else ():
        yield from parts(row, mixed, width)
        yield from saved(row, width)


def _cells(row):
    return [human(row[c]) for c in (*CATEGORIES, "peak")]


def parts(row: Ledger, mixed: bool = False, width: int = ANY) -> Iterator[str]:
    """Every part of a ledger in bytes. The last, "base kept", is not part of any sum."""
    yield ""
    master = {"optimizer": "a 32-bit master copy and two moments"} if mixed else {}
    rows = [
        [f"{name.replace('_', ' ')},", meaning, f"{getattr(row, name):,}"]
        for name, meaning in (PARTS | master).items()
    ]
    yield from table(rows, (12, 40, 17), width, left=(0, 1))


def saved(row: Ledger, width: int = ANY) -> Iterator[str]:
    """The arrays that make up the activations, summed over layers, each storage once."""
    yield ""
    rows = [["saved for backward", "arrays", "bytes", " also kept by"]]
    for part, op, what, count, nbytes, shared in by_kind(row.saved):
        where = f"{part}: {what}" + (f" ({op})" if op not in part else "")
        rows.append([where, f"{count}", f"{nbytes:,}", f" {', '.join(shared)}"])
    rows.append(["together", f"{len(row.saved)}", f"{row.activations:,}", ""])
    yield from table(rows, (44, 8, 17, 0), width, left=(0, 3))


def fits(
    config: ModelConfig, settings: Settings, gigabytes: float, seq: int, mixed: bool = False
) -> dict[str, dict[str, int]]:
    """Method -> the most "rows" of seq tokens, and the most "tokens" of one row, that fit.

    They fit if the predicted peak is at most gigabytes · 10⁹ bytes. 0: nothing fits. ROWS and
    TOKENS are the largest numbers tried. Raises ValueError for gigabytes out of range.
    """
    if not 0 < gigabytes < 1e12:
        raise ValueError(f"--fit is {gigabytes:g}, wanted a number of GB above 0 and below 1e12")

    def most(name, how, limit, sizes):
        """The largest n up to limit for which sizes(n) = (batch, length) fits."""

        def peak(n):
            return ledger(config, *sizes(n), method=name, mixed=mixed, **how).peak

        return largest(peak, gigabytes * 1e9, limit)

    return {
        name: {
            "rows": most(name, how, ROWS, lambda n: (n, seq)),
            "tokens": most(name, how, TOKENS, lambda n: (1, n)),
        }
        for name, how in settings.items()
    }


def fit_table(
    limits: Mapping[str, Mapping[str, int]],
    config: ModelConfig,
    gigabytes: float,
    seq: int,
    width: int = ANY,
) -> Iterator[str]:
    """A row for each method: the largest batch of this length, and the longest single row."""
    yield fill(f"within {gigabytes:g} GB (10⁹ bytes), by the predicted peak:", width)
    rows = [["method", f"rows of {seq} tokens", "tokens of one row"]]
    for name, row in limits.items():
        tried = zip(row.values(), (ROWS, TOKENS))
        cells = (f"{n:,}{' or more' if n == most else ''}" if n else "none" for n, most in tried)
        rows.append([METHODS[name].title, *cells])
    yield from table(rows, (18, 23, 21), width)
    window = config.sliding_window or config.max_position_embeddings
    longest = f"{min(window, config.max_position_embeddings):,} tokens a row"
    yield fill(f"memory only: the model was made for {longest}", width)


def as_json(predicted: Mapping[str, Ledger], measured: Mapping[str, Ledger]) -> dict[str, Any]:
    """Method -> all numbers of its ledger, in bytes."""
    return {
        name: dataclasses.asdict(row)
        | ({"measured": dataclasses.asdict(measured[name])} if name in measured else {})
        for name, row in predicted.items()
    }


def kept_by_rows(
    config: ModelConfig, settings: Settings, batch: Batch, mixed: bool = False
) -> dict[str, dict[str, int]]:
    """Method -> bytes kept for backward on a batch (ids, targets), in three ways.

    "every": all positions are computed; "matter": only the rows that can matter; "recomputed":
    these rows, with the layers computed again in backward.
    """

    def kept(name, how, **what):
        return ledger(config, method=name, mixed=mixed, **how, **what).activations

    N, T = batch[0].shape
    return {
        name: {
            "every": kept(name, how, batch_size=N, seq_len=T),
            "matter": kept(name, how, batch=batch),
            "recomputed": kept(name, {**how, "recompute": "layers"}, batch=batch),
        }
        for name, how in settings.items()
    }


def rows_table(
    kept: Mapping[str, Mapping[str, int]], batch: Batch, width: int = ANY
) -> Iterator[str]:
    """A row for each method: bytes kept for backward, and shares of the first column."""
    (N, T), targets = batch[0].shape, batch[1]
    matter, counted = int(last_targets(targets).sum()), int((targets != IGNORED).sum())
    rows = [["kept for backward", "every position", "that matter", "and recompute"]]
    for name, row in kept.items():
        cells = (f"{human(row[k])} {row[k] / row['every']:6.1%}" for k in ("matter", "recomputed"))
        rows.append([METHODS[name].title, human(row["every"]), *cells])
    yield from table(rows, (18, 16, 22, 22), width)
    which = f"{matter} can matter and {counted} have a counted target"
    yield fill(f"{N} × {T} positions, of which {which}", width)
    yield "and recompute: also with --recompute layers"
