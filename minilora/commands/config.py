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
    options = {word: action for action in parser._actions for word in action.option_strings}
    found: list[str] = []
    for name, value in read(path).items():
        option = f"--{name.replace('_', '-')}"
        if option not in options or option in ("--config", "--help"):
            known = [word[2:].replace("-", "_") for word in options]
            raise ValueError(f"{path}: {nearest('option', name, known)}")
        if (options[option].nargs == 0) != isinstance(value, bool) or isinstance(value, dict):
            wanted = "true or false" if options[option].nargs == 0 else "a text, a number or a list"
            raise ValueError(f"{path}: {name} is {value!r:.80}, wanted {wanted}")
        off = option.replace("--", "--no-", 1)
        if isinstance(value, bool):
            found += [option] if value else [off] * (off in options)
        elif isinstance(options[option], argparse._AppendAction) and isinstance(value, list):
            found += [f"{option}={each}" for each in value]
        else:
            joined = ",".join(map(str, value)) if isinstance(value, list) else value
            found.append(f"{option}={joined}")
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
