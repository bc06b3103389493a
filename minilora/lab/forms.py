"""The forms that the lab's files must have: results.json, a sweep's records, tune's record."""

from pathlib import Path
from typing import Any

from ..support.kinds import OneOf, Within, check_kind
from ..support.plots import PARTS, rows

SHARE = Within(float, 0, 1)  # exact match
COUNT = Within(int, 1, 2**53)  # a float holds it exactly
BYTES = Within(int, 0, 2**53)
MEASURE = Within(float, 0, 1e9)  # a loss, seconds
PLAIN = OneOf(None, bool, float, str)
MOST_ROWS = 64  # of a table

TOOK = {"seconds": MEASURE, "resident_peak": OneOf(None, BYTES)}
ROW: dict[str, Any] = {
    "title": str,
    "rank": OneOf(None, COUNT),
    "alpha": OneOf(None, float),
    "options": {str: PLAIN},
    "lr": Within(float, 0),
    "trainable": COUNT,
    "adapter_bytes": BYTES,
    "bytes": dict.fromkeys(PARTS, BYTES) | dict.fromkeys(("weights", "activations"), COUNT),
    "bytes_at": (COUNT, COUNT, COUNT),
    "rectangle_activations": BYTES,
    "ms_per_step": MEASURE,
    "ms_per_step_quartiles?": (MEASURE, MEASURE),
    "loss": MEASURE,
    "exact_match": SHARE,
    "exact_match_sd": SHARE,
    "seeds": [SHARE],
    "curve": [(COUNT, MEASURE, MEASURE)],
}
RESULTS: dict[str, Any] = {
    "base": {"name": str, "parameters": COUNT, "crc32?": str},
    "task": str,
    "settings": {
        **dict.fromkeys(("base", "task"), str),
        **dict.fromkeys(("train_size", "test_size", "steps", "seeds", "rank"), COUNT),
        "methods": [str],
        "ranks": {str: COUNT},
        "targets": OneOf(str, [str]),
    },
    "rates": {"given": [str], "differences": [str]},
    "references": {str: SHARE},
    "methods": {str: ROW},
    "scratch?": ROW,
    "examples": [{"prompt": str, "right": [str], "answers": {str: str}}],
    "made_with?": {str: str},
    "took?": {**TOOK, "base": TOOK, "jobs?": COUNT},
}
SCORES = {"exact_match": SHARE, "loss": OneOf(None, MEASURE)}
WORD_RUN = {"validation": SCORES, "test": SCORES}  # of sweep
SWEEP_CELL = {
    "method": str,
    "rank": OneOf(None, COUNT),
    "lr": Within(float, 0),
    "validation_exact_match": SHARE,
    "validation_loss": OneOf(None, MEASURE),
}
RATES = {  # tune's record
    "chosen": {str: {str: {"lr": Within(float, 0), "rank": OneOf(None, COUNT)}}},
    "sweeps": {str: {"settings": {str: object}, "base_crc32": str, "cells": [SWEEP_CELL]}},
}


def check_results(path: str | Path, results: Any) -> None:
    """Raises ValueError, with the place in the file, if results cannot be drawn."""
    check_kind(path, "it", results, RESULTS)
    if not 1 <= len(results["methods"]) <= MOST_ROWS:
        raise ValueError(f"{path}: {len(results['methods'])} methods, wanted 1 to {MOST_ROWS}")
    seeds = results["settings"]["seeds"]
    for name, row in rows(results).items():
        place = f"methods.{name}" if name in results["methods"] else name
        if "took" in results:
            check_kind(path, place, row, {"took": TOOK})
        if not row["curve"]:
            raise ValueError(f"{path}: {place}.curve is empty, wanted at least a point")
        if (found := len(row["seeds"])) != seeds:
            raise ValueError(f"{path}: {place}.seeds has {found} entries, wanted {seeds}")
        for i, example in enumerate(results["examples"]):
            check_kind(path, f"examples[{i}].answers", example["answers"], {name: str})
