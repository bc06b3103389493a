"""Regular expressions that choose layers by their names, matched without backtracking.

A pattern may come from an unknown adapter, and Python's `re` needs exponential time for some. Here
a part of the pattern is tried at all places of the name at once: it maps the set of places where it
may begin to the set of places where it can end. Groups, classes, counts, alternatives and looking
ahead or behind mean the same as in `re`. All patterns of one adapter share a budget of steps.
"""

import contextlib
import contextvars
import functools
import re
import warnings
from collections.abc import Iterator
from typing import Any

MOST_CHARACTERS, MOST_DEPTH, MOST_STEPS = 4000, 40, 400_000  # steps: at most 0.2 seconds
PLAIN = re.compile(r"[\w.]+")  # a name, in which a dot stands for any character
TOKEN = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|.", re.S)  # a class, an escape, a character
COUNT = re.compile(r"([*+?])|\{(\d*)(,?)(\d*)\}")
GROUP = re.compile(r"\(\?(?:P<\w+>|[:=!]|<[=!])|\((?!\?)")
WORD = re.compile(r"\w")

Node = tuple[Any, ...]


class _Budget:
    """The steps that are left, and what has been found so far.

    known: (pattern, name, kind) -> answer; fits: (name, class of characters) -> set of places.
    """

    def __init__(self):
        self.left = MOST_STEPS
        self.known: dict[tuple[Any, ...], bool] = {}
        self.fits: dict[tuple[str, re.Pattern], int] = {}

    def spend(self, steps: int) -> None:
        """Take these steps. Raises ValueError where so many are not left."""
        self.left -= steps
        if self.left < 0:
            raise ValueError(f"patterns of layers: more than {MOST_STEPS:,} steps to match them")


_shared: contextvars.ContextVar[_Budget | None] = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def one_budget() -> Iterator[None]:
    """In the with block all patterns share one budget of steps; elsewhere each call has its own."""
    token = _shared.set(_Budget())
    try:
        yield
    finally:
        _shared.reset(token)


def full(pattern: str, name: str) -> bool:
    """Does the pattern match the whole name? Raises ValueError: see `parse`."""
    return _answer(pattern, name, _full)


def end(pattern: str, name: str) -> bool:
    """Does it match the whole name, or all after a dot? This is PEFT's rule for pattern keys.

    Raises ValueError: see `parse`.
    """
    return _answer(pattern, name, _end)


def _answer(pattern, name, find):
    budget = _shared.get() or _Budget()
    key = (pattern, name, find)
    if key not in budget.known:
        budget.spend(4 + len(pattern) // 16)
        budget.known[key] = find(pattern, name, budget)
    return budget.known[key]


def _full(pattern, name, budget):
    return _matches(pattern, name, 1, budget)


def _end(pattern, name, budget):
    if PLAIN.fullmatch(pattern):
        start = len(name) - len(pattern)
        begins = start == 0 or (start > 0 and name[start - 1] == ".")
        return begins and all(p in (".", c) for p, c in zip(pattern, name[start:], strict=True))
    return _matches(pattern, name, 1 | _places(name, lambda i: name[i - 1 : i] == "."), budget)


def _matches(pattern, name, starts, budget):
    node = parse(pattern)
    return bool(_Ends(name, budget).of(node, starts) >> len(name) & 1)


def _places(name, fits) -> int:
    """The set of the places 0 to len(name) that fit, as a number whose bit i is place i."""
    return sum(1 << i for i in range(len(name) + 1) if fits(i))


@functools.lru_cache(maxsize=256)
def parse(pattern: str) -> Node:
    """The pattern as a tree.

    Raises ValueError if it is no regular expression, is too long, or has a part that is not
    supported: back references, flags, possessive counts, atomic groups.
    """
    (_shared.get() or _Budget()).spend(4 * len(pattern))
    if len(pattern) > MOST_CHARACTERS:
        raise ValueError(
            f"pattern {pattern[:40]!r}… has {len(pattern):,} characters, wanted at most "
            f"{MOST_CHARACTERS:,}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern {pattern!r:.80}: no regular expression: {error}") from None
    node, rest = _alternatives(pattern, 0, 0)
    assert rest == len(pattern), "re.compile accepts no unbalanced pattern"
    return node


def _refuse(pattern, what):
    return ValueError(f"pattern {pattern!r:.80}: {what} is not supported in a choice of layers")


def _alternatives(pattern, at, depth):
    """(tree, place after it) of what stands up to the closing bracket or the end."""
    if depth > MOST_DEPTH:
        raise _refuse(pattern, f"a group inside more than {MOST_DEPTH} others")
    branches: list[list[Node]] = [[]]
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            branches.append([])
            at += 1
            continue
        node, at = _atom(pattern, at, depth)
        node, at = _counted(pattern, node, at)
        branches[-1].append(node)
    return ("any", [("all", parts) for parts in branches]), at


def _atom(pattern, at, depth):
    if pattern[at] == "(":
        group = GROUP.match(pattern, at)
        if group is None:
            raise _refuse(pattern, f"{pattern[at : at + 4]!r}")
        inner, at = _alternatives(pattern, group.end(), depth + 1)
        opening = group[0]
        if opening[-1] in "=!" and opening != "(":
            inner = ("look", inner, opening[-1] == "=", "<" in opening)
        return inner, at + 1
    found = TOKEN.match(pattern, at)
    assert found is not None  # it takes any character
    token = found[0]
    if token in ("^", "$", r"\A", r"\Z", r"\b", r"\B"):
        return ("at", token), at + len(token)
    if token[0] == "\\" and token[1].isalnum() and token[1] not in "dDwWsSntrfv":
        raise _refuse(pattern, f"{token!r}")
    return ("one", re.compile(token, re.S if token != "." else 0)), at + len(token)


def _counted(pattern, node, at):
    """The node under the count that follows it, if one does."""
    count = COUNT.match(pattern, at)
    if count is None or count[0] in ("{}", "{,}"):
        return node, at
    low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(count[1], (0, None))
    if not count[1]:
        low = int(count[2] or 0)
        high = low if not count[3] else int(count[4]) if count[4] else None
    at = count.end()
    if pattern[at : at + 1] == "+":
        raise _refuse(pattern, "a possessive count")
    if pattern[at : at + 1] == "?":  # lazy: the same names match
        at += 1
    return ("many", node, low, high), at


class _Ends:
    """Where the parts of a pattern can end in one name. A set of places is a number: `_places`."""

    def __init__(self, name: str, budget: _Budget):
        self.name, self.budget = name, budget

    def of(self, node: Node, starts: int) -> int:
        """The places where the node can end, if it begins at one of `starts`."""
        self.budget.spend(1)
        kind = node[0]
        if kind == "one":
            return (starts & self._where(node[1])) << 1
        if kind == "all":
            for part in node[1]:
                if starts:
                    starts = self.of(part, starts)
            return starts
        if kind == "any":
            return functools.reduce(int.__or__, (self.of(branch, starts) for branch in node[1]))
        if kind == "many":
            return self._repeated(node, starts)
        fits = self._seen if kind == "look" else self._is_at
        return _places(self.name, lambda place: starts >> place & 1 and fits(node, place))

    def _where(self, character: re.Pattern) -> int:
        key, fits = (self.name, character), self.budget.fits
        if key not in fits:
            self.budget.spend(len(self.name))
            fits[key] = _places(self.name, lambda i: character.fullmatch(self.name[i : i + 1]))
        return fits[key]

    def _repeated(self, node, starts) -> int:
        _, inner, low, high = node
        most = len(self.name) + 1  # more turns than characters find nothing new
        for _ in range(min(low, most)):
            starts = self.of(inner, starts)
        found = new = starts
        for _ in range(most if high is None else min(high - low, most)):
            new = self.of(inner, new) & ~found
            if not new:
                break
            found |= new
        return found

    def _seen(self, node, place) -> bool:
        """Does the inner pattern begin here, or, looking behind, end here? Or not, as node[2]."""
        _, inner, wanted, behind = node
        if behind:
            found = self.of(inner, (2 << place) - 1) >> place & 1
        else:
            found = self.of(inner, 1 << place)
        return bool(found) == wanted

    def _is_at(self, node, place) -> bool:
        which = node[1]
        if which in ("^", r"\A"):
            return place == 0
        if which in ("$", r"\Z"):
            return place == len(self.name)
        around = self.name[max(0, place - 1) : place], self.name[place : place + 1]
        before, after = (bool(WORD.fullmatch(c)) for c in around)
        return (before != after) == (which == r"\b")
