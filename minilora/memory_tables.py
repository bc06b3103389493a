"""The ledger for reading: tables, what fits, and the figure of bytes against length."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .adapters import attach
from .files import write_atomically
from .formats.models import load_model
from .memory import CATEGORIES, Ledger, largest, ledger, measure
from .memory_saved import by_kind
from .methods import METHODS
from .model import ModelConfig
from .plots import human

Settings = Mapping[str, Mapping[str, Any]]  # method -> attach's keywords
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # tokens a row, of the figure


def takes(method: str) -> tuple[str, ...]:
    """Which of rank, alpha, targets a method has; all where it is unknown: attach will say so."""
    return METHODS[method].takes if method in METHODS else ("rank", "alpha", "targets")


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


def overview(found: Mapping[str, Ledger], real: Mapping[str, Ledger]) -> Iterator[str]:
    """A row a method; below it, where it was measured, what was measured."""
    yield f"{'method':18} {''.join(f'{c:>13}' for c in (*CATEGORIES, 'peak'))}"
    for name, row in found.items():
        yield f"{METHODS[name].title:18} {_cells(row)}"
        if name in real:
            same = all(row[c] == real[name][c] for c in CATEGORIES)
            off = real[name].peak / row.peak - 1
            verdict = "the same bytes" if same else "NOT the same bytes"
            yield f"  measured         {_cells(real[name])}   {verdict}, peak {off:+.1%}"
    yield "weights: frozen, trained, shared, moved copies; optimizer: two moments; peak: the most"
    yield "that was alive at one time, weights and optimizer included. 1 KiB = 1,024 bytes."


def _cells(row):
    return "".join(f"{human(row[c]):>13}" for c in (*CATEGORIES, "peak"))


def saved(row: Ledger) -> Iterator[str]:
    """What the activations consist of, summed over layers, each storage once."""
    yield ""
    yield f"{'saved for backward':44} {'arrays':>7} {'bytes':>16}   kept also by"
    for part, op, what, count, nbytes, shared in by_kind(row.saved):
        where = f"{part}: {what}" + (f" ({op})" if op not in part else "")
        yield f"{where:44} {count:>7} {nbytes:>16,}   {', '.join(shared)}"
    yield f"{'together':44} {len(row.saved):>7} {row.activations:>16,}"


def fitting(
    config: ModelConfig, settings: Settings, gigabytes: float, seq: int, mixed: bool
) -> Iterator[str]:
    """The largest batch at this length, and the longest row at batch 1, within a budget."""
    if not gigabytes > 0:
        raise ValueError(f"--fit is {gigabytes}, wanted a number of GB above 0")
    budget = gigabytes * 1e9
    yield f"within {gigabytes:g} GB (10⁹ bytes), by the predicted peak:"
    yield f"{'method':18} {f'rows of {seq} tokens':>22} {'tokens of one row':>20}"
    for name, how in settings.items():

        def peak(batch, length, name=name, how=how):
            return ledger(config, batch, length, method=name, mixed=mixed, **how).peak

        rows = largest(lambda n: peak(n, seq) <= budget, 2**12)
        length = largest(lambda n: peak(1, n) <= budget, 2**17)
        yield f"{METHODS[name].title:18} {rows or 'none':>22} {length or 'none':>20}"


def as_json(found: Mapping[str, Ledger], real: Mapping[str, Ledger]) -> dict[str, Any]:
    """All numbers in bytes, by method."""
    return {
        name: dataclasses.asdict(row)
        | ({"measured": dataclasses.asdict(real[name])} if name in real else {})
        for name, row in found.items()
    }


def figure(
    config: ModelConfig, settings: Settings, batch: int, path: str | Path, mixed: bool = False
) -> None:
    """Draw predicted bytes against the length of a row, one panel a method, as a PNG."""
    from . import plots

    lengths = [n for n in LENGTHS if n <= max(config.max_position_embeddings, 512)]
    curves = {
        name: [ledger(config, batch, n, method=name, mixed=mixed, **how) for n in lengths]
        for name, how in settings.items()
    }
    titles = {name: METHODS[name].title for name in settings}
    write_atomically(path, plots.png(plots.memory_by_length(lengths, curves, titles, batch)))
