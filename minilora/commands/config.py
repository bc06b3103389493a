"""run.toml: the options of a run, which --config reads and every run writes."""

import argparse
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..support.files import errors_at, find, read_text

NAME = "run.toml"
NOT_OPTIONS = ("command", "config", "resume")  # of a namespace: not written into run.toml


def read(path: str | Path) -> dict[str, Any]:
    """The file's options by name. Raises FileNotFoundError, or ValueError if it is not TOML."""
    text = read_text(path)
    with errors_at(f"{path}: not TOML"):
        return tomllib.loads(text)


def words(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[str]:
    """The options in the file given.config as words of a command line, without those that a given
    option excludes, such as steps beside --epochs. Raises as `read`, and for unknown options.
    """
    path, groups = given.config, [g._group_actions for g in parser._mutually_exclusive_groups]
    said = [g for g in groups if any(getattr(given, a.dest) != a.default for a in g)]
    dropped = {action.dest for group in said for action in group}
    options = {a.dest: a for a in parser._actions if a.dest not in ("help", "config")}
    found: list[str] = []
    for name, value in read(path).items():
        with errors_at(path):
            action = find("option", name.replace("-", "_"), options)
        if action.dest in dropped:
            continue
        on, off = action.option_strings[0], action.option_strings[1:]
        if isinstance(value, bool) and action.nargs == 0:
            found += [on] if value else off  # --chat, --no-chat; --resume alone is off
        elif isinstance(value, list) and not isinstance(action, argparse._AppendAction):
            found.append(f"{on}={','.join(map(str, value))}")
        else:
            found += [f"{on}={each}" for each in (value if isinstance(value, list) else [value])]
    return found


def text(options: Mapping[str, Any]) -> str:
    """The TOML file of these options, without those that are None."""
    lines = ["# minilora train --config FILE repeats this run; further options override it"]
    for name, value in options.items():
        if value not in (None, []) and name not in NOT_OPTIONS:
            written = json.dumps(value, ensure_ascii=False, default=str)  # as TOML, except 7F
            lines.append(f"{name} = {written}".replace("\x7f", "\\u007f"))
    return "\n".join(lines) + "\n"
