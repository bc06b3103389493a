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
            lines.append(f"{name} = {_written(value)}")
    return "\n".join(lines) + "\n"


def _written(value) -> str:
    """A value in TOML, whose texts are JSON's but for the character 7F."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    plain = value if isinstance(value, bool | int | float) else str(value)
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
