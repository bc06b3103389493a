"""A release: one version everywhere, what earlier versions saved, and all of it without Numba."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import minilora as ml

ROOT = Path(__file__).parents[1]
SAVED = sorted((ROOT / "tests" / "golden").glob("saved_by_*"))
ADAPTERS = [path.parent for folder in SAVED for path in folder.glob("*/adapter_config.json")]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / "CHANGELOG.md").is_file(), reason="an installed package has none")
def test_one_version_stands_everywhere_and_one_date():
    """In both packages, in CITATION.cff, first in CHANGELOG.md; and its adapters are kept."""
    for folder in ("", "notebooks/"):
        project = tomllib.loads(read(f"{folder}pyproject.toml"))["project"]
        assert project["version"] == ml.__version__, folder
    cited = dict(
        re.findall(r'^(version|date-released): "?([\d.-]+)"?$', read("CITATION.cff"), re.M)
    )
    newest = re.search(r"^## (\S+), (\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.M).groups()
    assert newest == (cited["version"], cited["date-released"])
    assert newest[0] == ml.__version__
    assert f"saved_by_{ml.__version__}" in [folder.name for folder in SAVED]


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda path: "-".join(path.parts[-2:]))
def test_an_adapter_of_an_earlier_version_is_loaded(folder):
    """With its technique, on the base that was saved beside it: it computes what it did then."""
    wanted = load_file(folder.parent / "logits.safetensors")
    base = ml.load_model(folder.parent / "base")
    tuned = ml.load_adapter(base, folder)
    assert tuned.method == folder.name
    for model, name in ((base, "base"), (tuned, folder.name)):
        np.testing.assert_allclose(model.logits(wanted["ids"]), wanted[name], atol=1e-4)
    assert np.abs(wanted[folder.name] - wanted["base"]).max() > 0.01  # it did learn something


def test_without_numba_all_is_there_but_the_kernels():
    """Every file of both packages is imported, and the doctor says what is missing."""
    code = """
import importlib, pkgutil, sys  # autograde wants nbgrader
sys.modules.update(dict.fromkeys(("numba", "llvmlite", "tbb")))  # what is None cannot be imported
import minilora, minilora_course
for package in (minilora, minilora_course):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        apart = found.name.endswith(("__main__", "autograde"))
        if not apart and not found.name.startswith("minilora.fast."):
            importlib.import_module(found.name)
from minilora.fast import heap, kernels, twins
from minilora.check import doctor
print(*doctor.machine(), sep="\\n")
"""
    variables = {**os.environ, "MINILORA_KERNELS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0, done.stderr
    assert "twins       off: every function is its page's own" in done.stdout
