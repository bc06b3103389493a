"""The files of a comparison: results.json, the figures and one HTML page."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from .. import fast as kernels
from ..support import machine, plots
from ..support.files import read_json, write_atomically
from ..support.terminal import many
from .forms import check_results
from .page import page

FIGURES = ("convergence.png", "accuracy.png", "memory.png")
PAGE = "report.html"


def write_all(results: Mapping[str, Any], folder: str | Path) -> None:
    """Write results.json, then the figures and report.html. Raises OSError."""
    draw(write_results(results, folder), folder)


def write_results(results: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Write results.json; returns what it holds.

    Versions and machine are added if the results have none: drawing the page again on another
    machine keeps those of the run. Raises OSError.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {**results, "made_with": results.get("made_with") or made_with()}
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / "results.json", text.encode())
    return json.loads(text)  # tuples are lists from here on, as when they are read


def draw(results: Mapping[str, Any], folder: str | Path) -> None:
    """Write the figures and report.html of results that `write_results` or `read_results` gave."""
    folder = Path(folder)
    images = {name: plots.png(getattr(plots, Path(name).stem)(results)) for name in FIGURES}
    for name, image in images.items():
        write_atomically(folder / name, image)
    write_atomically(folder / PAGE, page(results, images).encode())


def read_results(folder: str | Path) -> dict[str, Any]:
    """The results that `write_all` wrote.

    Raises FileNotFoundError where there are none, ValueError with the place that is damaged.
    """
    path = Path(folder) / "results.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there; wanted a folder made by compare")
    results = read_json(path)
    check_results(path, results)
    return results


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
