"""Shared by the commands: adding one to the parser, and converting its texts to values."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..methods import DEFAULT, METHODS, own
from ..support.files import nearest
from ..support.terminal import fill, width
from ..tuning.choices import describe_options, find_method

OWN = "or FILE.py:METHOD of your own"


def command(
    commands, name: str, function: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Let a command call the function with its arguments; returns the command's parser.

    Its description is in `COMMANDS`.
    """
    p = commands.add_parser(name)
    p.set_defaults(command=function)
    return p


def adapter_options(
    p: argparse.ArgumentParser, default: str | None = None, several: bool = False
) -> None:
    """Add --method, --rank, --targets, --option; several: --method may be a list."""
    which = default or ", ".join(DEFAULT)
    listed = f"{'some of ' if several else ''}{', '.join(METHODS)}, {OWN} (default: {which})"
    p.add_argument("--method", default=default, help=listed)
    p.add_argument("--rank", "--r", type=int, help="rank of the adapter")
    p.add_argument("--targets", type=names, help="q_proj,v_proj,… or all-linear")
    p.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the method: see below",
    )
    p.formatter_class = argparse.RawDescriptionHelpFormatter  # the epilog keeps its lines
    lines = (fill(line, width(), 6) for line in describe_options().splitlines())
    p.epilog = "\n".join(["what a method takes, with its default:", "", *lines])


def form_options(p: argparse.ArgumentParser) -> None:
    """Add --weights and --embeddings: the forms in which `load_model` keeps the base."""
    p.add_argument("--weights", metavar="FORM", help="of the linears: float32, nf4 or stored")
    p.add_argument("--embeddings", metavar="FORM", help="float32, bfloat16 or int8; and the head")


def forms(a: argparse.Namespace) -> dict[str, str]:
    """--weights and --embeddings, if given, as keywords of `load_model`."""
    return given(a, "weights", "embeddings")


def with_techniques(words: Sequence[str]) -> Iterator[str]:
    """A command's words, where a technique's name replaces each FILE.py:METHOD. The files are read
    now, because their options become options of the parser. Raises what `own.read` raises.
    """
    option = ""
    for word in words:
        start, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        option = start or option
        if option in ("--method", "--methods", "--cases"):
            named = (own.read(n).name if own.is_place(n) else n for n in value.split(","))
            word = start + equals + ",".join(named)
        yield word


def names(text: str) -> tuple[str, ...] | str:
    """Names separated by commas; "all-linear" stays one text."""
    listed = tuple(n.strip() for n in text.split(",") if n.strip())
    return "all-linear" if listed == ("all-linear",) else listed


def read_whole(name: str, text: str) -> int:
    """A text as a whole number; raises ValueError with the option's name."""
    return _read(int, name, text, "a whole number")


def read_number(name: str, text: str) -> float:
    """A text as a number; raises ValueError with the option's name."""
    return _read(float, name, text, "numbers")


def read_truth(name: str, text: str) -> bool:
    """true or false; raises ValueError with the option's name."""
    return _read({"true": True, "false": False}.__getitem__, name, text.lower(), "true or false")


def _read(kind, name, text, wanted):
    try:
        return kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"{name}: got {text!r}, wanted {wanted}") from None


def options(texts: Iterable[str], method: str | None) -> dict[str, Any]:
    """NAME=VALUE texts as {name: Python value}: true, false or a number.

    Raises ValueError for a name that is not an option of the method, or if there is no method.
    """
    texts = list(texts)
    if texts and not method:
        raise ValueError(f"--option: got {texts[0]!r} without --method, whose option it is")
    known = find_method(method).options if method else {}
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option: got {text!r}, wanted NAME=VALUE")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise nearest(f"option of {method}", name, known)
        values[name] = _read(json.loads, f"--option {name}", value, "a number, true or false")
    return values


def given(a: argparse.Namespace, *wanted: str) -> dict[str, Any]:
    """Name -> value, for those of the wanted arguments that are on the command line."""
    return {name: value for name in wanted if (value := getattr(a, name)) is not None}
