"""The ledger for reading: tables, and what fits."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ..formats.models import load_model
from ..llama.model import ModelConfig
from ..methods import METHODS
from ..support.plots import human
from ..tuning.adapters import attach
from .saved import by_kind
from .savers import savers
from .step import CATEGORIES, Ledger, largest, ledger, measure

ROWS, TOKENS = 2**12, 2**17  # as far as `fits` looks
Settings = Mapping[str, Mapping[str, Any]]  # method -> `ledger`'s keywords

PARTS = {  # field of a Ledger -> what it is
    "frozen": "weights that do not train",
    "trainable": "weights that train",
    "shared": "projections that all layers share",
    "moved": "what a step rule moves or remembers",
    "gradients": "of what trains",
    "optimizer": "AdamW's two moments",
    "activations": "saved for backward, as below",
    "scratch": "rope's tables",
    "transient": "the most beyond all these at one time",
    "peak": "the most that was alive at one time",
    "base_kept": "of the base, for detach to give back",
}


def ledgers(
    config: ModelConfig, settings: Settings, batch: int, seq: int, mixed: bool = False
) -> dict[str, Ledger]:
    """The predicted bytes of each method."""
    return {
        name: ledger(config, batch, seq, method=name, mixed=mixed, **how)
        for name, how in settings.items()
    }


def measured(model: str, settings: Settings, batch: int, seq: int) -> dict[str, Ledger]:
    """The measured bytes of each method; the model must be there with its weights."""
    base = load_model(model)
    return {n: measure(attach(base, n, **how), batch, seq) for n, how in settings.items()}


def savers_of(
    model: str, settings: Settings, batch: int, seq: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> `savers`; the model must be there with its weights."""
    if any("recompute" in how for how in settings.values()):
        raise ValueError("--savers tries what --recompute does: give one of the two")
    base = load_model(model)
    return {n: savers(attach(base, n, **how), batch, seq) for n, how in settings.items()}


def overview(
    found: Mapping[str, Ledger],
    real: Mapping[str, Ledger],
    details: bool = False,
    mixed: bool = False,
) -> Iterator[str]:
    """A row a method; below it, where it was measured, what was measured; and with details what
    the weights and the activations consist of.
    """
    yield f"{'method':18} {''.join(f'{c:>13}' for c in (*CATEGORIES, 'peak'))}"
    for name, row in found.items():
        yield f"{METHODS[name].title:18} {_cells(row)}"
        if name in real:
            same = all(row[c] == real[name][c] for c in CATEGORIES)
            off = real[name].peak / row.peak - 1
            verdict = "the same bytes" if same else "NOT the same bytes"
            yield f"  measured         {_cells(real[name])}   {verdict}, peak {off:+.1%}"
    moments = "master copy and two moments" if mixed else "two moments"
    yield f"weights: frozen, trained, shared, moved; optimizer: {moments}; peak: the most that"
    yield "was alive at one time, weights and optimizer included. 1 KiB = 1,024 bytes."
    kept = {name: row.base_kept for name, row in found.items() if row.base_kept}
    if kept and not details:
        listed = ", ".join(f"{METHODS[name].title} {human(n)}" for name, n in kept.items())
        yield f"base kept, beside all this, for detach to give back: {listed}"
    for row in found.values() if details else ():
        yield from parts(row, mixed)
        yield from saved(row)


def _cells(row):
    return "".join(f"{human(row[c]):>13}" for c in (*CATEGORIES, "peak"))


def parts(row: Ledger, mixed: bool = False) -> Iterator[str]:
    """Every category that the ledger has, in bytes; the last is in none of the sums."""
    yield ""
    master = {"optimizer": "a 32-bit master copy and two moments"} if mixed else {}
    for name, meaning in (PARTS | master).items():
        yield f"{name.replace('_', ' ') + ',':13} {meaning:38} {getattr(row, name):>16,}"


def saved(row: Ledger) -> Iterator[str]:
    """What the activations consist of, summed over layers, each storage once."""
    yield ""
    yield f"{'saved for backward':44} {'arrays':>7} {'bytes':>16}   kept also by"
    for part, op, what, count, nbytes, shared in by_kind(row.saved):
        where = f"{part}: {what}" + (f" ({op})" if op not in part else "")
        yield f"{where:44} {count:>7} {nbytes:>16,}   {', '.join(shared)}"
    yield f"{'together':44} {len(row.saved):>7} {row.activations:>16,}"


def fits(
    config: ModelConfig, settings: Settings, gigabytes: float, seq: int, mixed: bool = False
) -> dict[str, dict[str, int]]:
    """Method -> "rows" of seq tokens, and "tokens" of one row, whose predicted peak is within so
    many times 10⁹ bytes; 0 where none is, ROWS and TOKENS where it may be more.
    """
    if not 0 < gigabytes < 1e12:
        raise ValueError(f"--fit is {gigabytes:g}, wanted a number of GB above 0 and below 1e12")

    def most(name, how, limit, sizes):
        """The largest n up to limit whose (batch, length) = sizes(n) is within the budget."""

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
    found: Mapping[str, Mapping[str, int]], config: ModelConfig, gigabytes: float, seq: int
) -> Iterator[str]:
    """A row a method: the largest batch at this length, and the longest row alone."""
    yield f"within {gigabytes:g} GB (10⁹ bytes), by the predicted peak:"
    yield f"{'method':18} {f'rows of {seq} tokens':>22} {'tokens of one row':>20}"
    for name, row in found.items():
        limits = zip(row.values(), (ROWS, TOKENS))
        cells = (f"{n:,}{' or more' if n == most else ''}" if n else "none" for n, most in limits)
        yield "{:18} {:>22} {:>20}".format(METHODS[name].title, *cells)
    yield f"by memory alone: the model was made for {config.max_position_embeddings:,} tokens a row"


def as_json(found: Mapping[str, Ledger], real: Mapping[str, Ledger]) -> dict[str, Any]:
    """All numbers in bytes, by method."""
    return {
        name: dataclasses.asdict(row)
        | ({"measured": dataclasses.asdict(real[name])} if name in real else {})
        for name, row in found.items()
    }
