"""Does it run elsewhere? Clean environments, a small run in each, and a table.

    python tests/tools/portability.py                       # all; about 10 minutes on two cores
    python tests/tools/portability.py --cases oldest,"no numba" --keep build/environments

Each environment is made by venv and pip from the wheel of this checkout, outside of it. In each a
small program trains, saves, loads and generates with every technique, compares the kernels with the
pages, and runs the command line. "no numba" has neither Numba, llvmlite nor TBB; there `compare`,
the check of every page and notebooks 00 to 08 run, too. Python 3.11 is the oldest, the newest is
what there is here.
Linux and macOS; read-only folders are real only where this starts as root and goes on as nobody.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import records

ROOT = Path(__file__).resolve().parents[2]
HANGS = 7200  # seconds; a busy machine compiles the kernels slowly
NAMES = ("numpy", "numba", "matplotlib", "safetensors", "joblib", "tbb")
SMOKE = r"""
import importlib.metadata, json, locale, os, pathlib, platform, sys, tempfile
import numpy as np
import minilora as ml
from minilora import fast
from minilora.cli import main

model = ml.load_model("base")
ids = np.array([[1, 2, 3, 4, 5, 6]])
for name in ml.METHODS:
    with tempfile.TemporaryDirectory() as folder:
        tuned = ml.attach(model, name)
        history = ml.train(tuned, [(ids, ids)], steps=3, lr=1e-3)
        assert history.losses[2] < history.losses[0], name
        ml.save_adapter(tuned, folder)
        loaded = ml.load_adapter(model, folder)
        assert np.abs(loaded.logits(ids) - tuned.logits(ids)).max() < 1e-3, name
        with ml.plain():
            page = tuned.logits(ids)
        assert np.abs(page - tuned.logits(ids)).max() < 1e-3, name
        assert ml.merge(tuned).generate(ids, 4).shape == (1, 10), name
folder_name, file_name = (os.fsdecode(name.encode()) for name in ("a folder é ", "data é.jsonl"))
with tempfile.TemporaryDirectory(prefix=folder_name) as folder:
    path = pathlib.Path(folder) / file_name
    path.write_text('{"prompt": "Dwalk>", "completion": "walked"}\n' * 8, encoding="utf-8")
    out = str(pathlib.Path(folder) / "out")
    line = "train --steps 2 --lr 0.01 --method lora".split()
    assert main([*line, "--data", str(path), "--out", out]) == 0
    assert main(["count", "--shape", "base"]) == 0
    assert main(["generate", "--prompt", "Dwalk>", "--adapter", out]) == 0
versions = {}
for name in NAMES:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = "none"
about = {"python": platform.python_version(), **versions, "kernels": fast.backend()}
about["folder"] = str(pathlib.Path(ml.__file__).parent)
print("\nSMOKE " + json.dumps(about))
"""
WITHOUT_NUMBA = r"""
import importlib.util, sys, tempfile
from minilora.cli import main

assert not any(map(importlib.util.find_spec, ("numba", "llvmlite", "tbb")))
with tempfile.TemporaryDirectory() as folder:
    assert main(["compare", "--steps", "5", "--seeds", "1", "--out", folder]) == 0
assert main(["gradcheck"]) == 0  # every page
sys.path.insert(0, NOTEBOOKS)
import build
for path in build.sources():
    if path.stem < "09":
        build.run(build.notebook(path, solved=True), build.kept_before(path))
"""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    environment: str  # cases with the same name share one environment
    variables: dict = field(default_factory=dict)  # environment variables; None: removed
    without_numba: bool = False  # its program runs, too
    nobody: bool = False  # as a user who may write nowhere but in the folder for temporary files


CASES = (
    Case("oldest", "oldest"),
    Case("oldest; pages alone", "oldest", {"MINILORA_KERNELS": "numpy"}),
    Case("newest", "newest"),
    Case("no numba", "no numba", without_numba=True),
    Case("no tbb", "no tbb"),
    Case("JIT off", "newest", {"NUMBA_DISABLE_JIT": "1"}),
    Case("newest; pages alone", "newest", {"MINILORA_KERNELS": "numpy"}),
    Case("C locale", "newest", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Case("a path with ä", "spaces and ä ß 文"),
    Case("read-only, no home", "newest", {"HOME": None, "XDG_CACHE_HOME": None}, nobody=True),
)


def bounds() -> dict[str, str]:
    """Package -> its lowest version in pyproject.toml."""
    fields = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pairs = [re.match(r"([\w-]+)>=([\d.]+)", text).groups() for text in fields]
    return dict(pairs)


def pythons() -> tuple[str, str]:
    """The oldest and the newest supported Python on this machine."""
    found = [p for n in range(11, 15) if (p := shutil.which(f"python3.{n}"))]
    return (found or [sys.executable])[0], (found or [sys.executable])[-1]


def make(environment: str, folder: Path, wheel: Path) -> Path:
    """Make an environment; returns the path of its Python."""
    oldest, newest = pythons()
    place = folder / environment.replace(" ", "_" if environment.isascii() else " ")
    python = place / "bin" / "python"
    if python.exists():
        return python
    run([oldest if environment == "oldest" else newest, "-m", "venv", place])
    lowest = bounds()
    wanted = dict.fromkeys(lowest, "")
    if environment == "oldest":
        wanted = {name: f"=={version}" for name, version in lowest.items()}
        wanted |= {"tbb": f">={lowest['tbb']}", "matplotlib": f"~={lowest['matplotlib']}.0"}
    if environment == "no numba":
        del wanted["numba"], wanted["tbb"]
    if environment == "no tbb":
        del wanted["tbb"]
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, *(name + version for name, version in wanted.items())])
    run([*pip, "--no-deps", wheel])
    if environment == "no numba":  # the course, and what runs a notebook
        run([*pip, "hypothesis", "ipykernel", "IPython", "nbclient"])
        run([*pip, "--no-deps", ROOT / "notebooks"])
    return python


def run(line, **how) -> subprocess.CompletedProcess:
    """Run a command; raises RuntimeError if it fails."""
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True, **how)
    if done.returncode:
        raise RuntimeError(f"{line[:2]}: {done.stderr[-600:]}")
    return done


def outcome(case: Case, folder: Path, wheel: Path) -> dict:
    """The versions of a case, and whether its program succeeded."""
    row = {"case": case.name, "passed": False}
    try:
        python = make(case.environment, folder, wheel)
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NUMBA_"))}
        variables |= {k: v for k, v in case.variables.items() if v is not None}
        for name in [k for k, v in case.variables.items() if v is None]:
            variables.pop(name, None)
        how = {"user": 65534, "group": 65534} if case.nobody and os.getuid() == 0 else {}
        with tempfile.TemporaryDirectory(prefix="smoke-") as place:
            os.chmod(place, 0o777)
            program = Path(place) / "smoke.py"
            program.write_text(f"NAMES = {NAMES}\n{SMOKE}", encoding="utf-8")
            done = run([python, program], cwd=place, env=variables, timeout=HANGS, **how)
            if case.without_numba:
                notebooks = str(ROOT / "notebooks")
                program.write_text(f"NOTEBOOKS = {notebooks!r}\n{WITHOUT_NUMBA}", encoding="utf-8")
                run([python, program], cwd=place, env=variables, timeout=HANGS)
        said = json.loads(done.stdout.rsplit("SMOKE ", 1)[1])
        assert Path(said["folder"]).is_relative_to(folder), said["folder"]
        row |= {"passed": True, **{k: said[k] for k in ("python", *NAMES, "kernels")}}
        row["warnings"] = done.stderr.count("Warning")
    except (RuntimeError, AssertionError, subprocess.TimeoutExpired) as error:
        row["error"] = str(error)[-800:]
    return row


def in_order(rows: dict[str, dict]) -> list[dict]:
    """The rows in the order of CASES."""
    return [rows[case.name] for case in CASES if case.name in rows]


def table(rows) -> str:
    """The rows as a Markdown table."""
    columns = ("case", "python", *NAMES[:2], "tbb", "kernels", "passed")
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        cells = {**row, "passed": "yes" if row["passed"] else "**no**"}
        lines.append([str(cells.get(name, "")) for name in columns])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    about = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    about.add_argument("--cases", help="of " + ", ".join(case.name for case in CASES))
    about.add_argument("--keep", type=Path, help="a folder that keeps the environments")
    about.add_argument("--record", type=Path, help="a JSON file for the table")
    about.add_argument("--more", action="store_true", help="keep its rows of other cases")
    asked = about.parse_args()
    names = asked.cases.split(",") if asked.cases else [case.name for case in CASES]
    with tempfile.TemporaryDirectory(prefix="environments-") as own:
        folder = (asked.keep or Path(own)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o755)
        line = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "-w",
            folder / "wheel",
            ROOT,
        ]
        run(line)
        (wheel,) = (folder / "wheel").glob("minilora-*.whl")
        before = json.loads(asked.record.read_text())["rows"] if asked.more else []
        rows = {row["case"]: row for row in before}
        for case in CASES:
            if case.name in names:
                rows[case.name] = outcome(case, folder, wheel)
                print(json.dumps(rows[case.name]), flush=True)
                if asked.record:
                    records.write(asked.record, {"rows": in_order(rows)})
    print(table(in_order(rows)))
    return not all(row["passed"] for row in rows.values())


if __name__ == "__main__":
    sys.exit(main())
