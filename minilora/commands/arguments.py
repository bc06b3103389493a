"""What commands share: how one is put on the parser, and texts of the command line as values."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import Any

from ..methods import METHODS
from ..support.files import nearest
from ..tuning.choices import find_method


def command(
    commands, name: str, function: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    """A parser for one more command, which calls the function with its arguments."""
    p = commands.add_parser(name, help=summary, description=summary)
    p.set_defaults(command=function)
    return p


def adapter_options(
    p: argparse.ArgumentParser, default: str | None = None, several: bool = False
) -> None:
    """--method, --rank, --targets, --option; several: --method may be a list."""
    listed = f"{'some of ' if several else ''}{', '.join(METHODS)} ({default or 'all'})"
    p.add_argument("--method", default=default, help=listed)
    p.add_argument("--rank", type=int, help="rank of the adapter")
    p.add_argument("--targets", type=names, help="q_proj,v_proj,… or all-linear")
    p.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the method"
    )


def names(text: str) -> tuple[str, ...] | str:
    """A list with commas in it, or the word all-linear."""
    found = tuple(n.strip() for n in text.split(",") if n.strip())
    return "all-linear" if found == ("all-linear",) else found


def read_whole(name: str, text: str) -> int:
    """A text as a whole number; raises ValueError with the option's name."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}: got {text!r}, wanted a whole number") from None


def read_number(name: str, text: str) -> float:
    """A text as a number; raises ValueError with the option's name."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: got {text!r}, wanted numbers") from None


def options(texts: Iterable[str], method: str | None) -> dict[str, Any]:
    """NAME=VALUE as Python values: true, false, numbers.

    Raises ValueError for a name that is none of the method's own options, and without a method.
    """
    texts = list(texts)
    if texts and not method:
        raise ValueError(f"--option: got {texts[0]!r} without --method, whose option it is")
    known = find_method(method).options if method else {}
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option: got {text!r}, wanted NAME=VALUE")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise nearest(f"option of {method}", name, known)
        try:
            found[name] = json.loads(value)
        except ValueError:
            raise ValueError(f"--option: got {text!r}, wanted a number, true or false") from None
    return found


def given(a: argparse.Namespace, *wanted: str) -> dict[str, Any]:
    """Those of the arguments that the command line gave."""
    return {name: value for name in wanted if (value := getattr(a, name)) is not None}
