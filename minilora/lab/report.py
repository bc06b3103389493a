"""What a comparison leaves behind: the table, results.json, the figures and one HTML page."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from .. import fast as kernels
from ..bench import machine
from ..support import plots
from ..support.files import write_atomically
from ..support.plots import rows
from .page import page
from .table import many, opening, progress_line, table

__all__ = ["FIGURES", "opening", "progress_line", "read_results", "table", "write_all"]

FIGURES = ("convergence.png", "accuracy.png", "memory.png")
# What results.json must have to be drawn, and each row of it.
NEEDED = ("base", "task", "settings", "rates", "references", "methods", "examples")
NEEDED_IN_A_ROW = (
    *("title", "rank", "alpha", "options", "lr", "trainable", "adapter_bytes", "bytes", "bytes_at"),
    "rectangle_activations",
    *("ms_per_step", "loss", "exact_match", "exact_match_sd", "seeds", "curve"),
)


def write_all(results: Mapping[str, Any], folder: str | Path) -> None:
    """results.json first, so that no run is lost to a figure; then the figures and report.html.

    What made the numbers (versions, machine) is added where it is not there yet, so drawing the
    page again elsewhere keeps it. Raises OSError.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {**results, "made_with": results.get("made_with") or made_with()}
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "results.json", text.encode())
    results = json.loads(text)  # tuples are lists from here on, as when they are read
    images = {name: plots.png(getattr(plots, Path(name).stem)(results)) for name in FIGURES}
    for name, image in images.items():
        write_atomically(folder / name, image)
    write_atomically(folder / "report.html", page(results, images).encode())


def read_results(folder: str | Path) -> dict[str, Any]:
    """The results that `write_all` wrote.

    Raises FileNotFoundError where there are none, ValueError where they are damaged.
    """
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: not there; wanted a folder made by compare") from None
    except ValueError as error:  # no UTF-8, no JSON
        raise ValueError(f"{path}: damaged: {error}") from None
    missing = _missing(results, NEEDED)
    for name, record in {} if missing else rows(results).items():
        missing += [f"{key} of {name}" for key in _missing(record, NEEDED_IN_A_ROW)]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)} in it; wanted all that compare writes")
    return results


def _missing(record, keys):
    return [key for key in keys if not isinstance(record, dict) or key not in record]


def made_with() -> dict[str, str]:
    """Versions, kernels and machine of this process."""
    versions = machine.versions()
    return {
        "python": platform.python_version(),
        "minilora": __version__,
        **{name: versions.get(name, "not installed") for name in ("numpy", "numba")},
        "kernels": kernels.backend(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{machine.processor()}, {many(os.cpu_count() or 1, 'core')}",
    }
