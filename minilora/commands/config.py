"""run.toml: the options of a run, which --config reads and every run writes."""

import argparse
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..support.files import nearest, read_text

NAME = "run.toml"
NOT_OPTIONS = ("command", "config", "resume")  # of a namespace: what no run.toml has


def read(path: str | Path) -> dict[str, Any]:
    """The file's options by name. Raises FileNotFoundError, or ValueError for what is no TOML."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None


def words(parser: argparse.ArgumentParser, path: str | Path) -> list[str]:
    """The file's options as words of a command line.

    Raises as `read`, and ValueError for what is no option, or of another kind.
    """
    options = {w: action for action in parser._actions for w in action.option_strings}
    known = [w[2:].replace("-", "_") for w in options if w not in ("-h", "--help", "--config")]
    found: list[str] = []
    for name, value in read(path).items():
        option = f"--{name.replace('_', '-')}"
        if name.replace("-", "_") not in known:
            raise ValueError(f"{path}: {nearest('option', name, known)}")
        if isinstance(value, bool) != (options[option].nargs == 0):
            raise ValueError(f"{path}: {name} is {value!r:.80}, wanted a value of another kind")
        values = value if isinstance(value, list) else [value]
        if isinstance(value, bool):
            off = option.replace("--", "--no-", 1)
            found += [option] if value else [off] * (off in options)
        elif isinstance(options[option], argparse._AppendAction):
            found += [f"{option}={each}" for each in values]
        else:
            found.append(f"{option}={','.join(map(str, values))}")
    return found


def text(options: Mapping[str, Any]) -> str:
    """The TOML file of these options, without those that are None."""
    lines = ["# minilora train --config FILE repeats this run; an option beside it counts more"]
    for name, value in options.items():
        if value not in (None, []) and name not in NOT_OPTIONS:
            written = json.dumps(value, ensure_ascii=False, default=str)  # as TOML, but for 7F
            lines.append(f"{name} = {written}".replace("\x7f", "\\u007f"))
    return "\n".join(lines) + "\n"
