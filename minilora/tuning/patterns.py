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

MOST_CHARACTERS, MOST_DEPTH, MOST_STEPS = 4000, 40, 250_000  # steps: at most 0.2 seconds
READING = 8  # steps to read a character of a pattern
PLAIN = re.compile(r"[\w.]+")  # a name, in which a dot stands for any character
TOKEN = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|.", re.S)  # a class, an escape, a character
ESCAPE = re.compile(r"\\(.)", re.S)
COUNT = re.compile(r"([*+?])|\{(\d*)(,?)(\d*)\}")
GROUP = re.compile(r"\(\?(?:P<\w+>|[:=!]|<[=!])|\((?!\?)")

Node = tuple[Any, ...]


class _Budget:
    """The steps that are left, and what has been found so far.

    known: (pattern, name, kind) -> answer; places: (name, source) -> set of places; read: patterns.
    """

    def __init__(self):
        self.left = MOST_STEPS
        self.known: dict[tuple[Any, ...], bool] = {}
        self.places: dict[tuple[str, str], int] = {}
        self.read: set[str] = set()

    def spend(self, steps: int) -> None:
        """Take these steps. Raises ValueError where so many are not left."""
        self.left -= steps
        if self.left < 0:
            raise ValueError(f"patterns of layers: more than {MOST_STEPS:,} steps to match them")

    def spend_to_read(self, pattern: str) -> None:
        """The steps that reading a pattern takes, at its first use."""
        if pattern not in self.read:
            self.spend(READING * len(pattern))
            self.read.add(pattern)


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
    return _answer(pattern, name, after_dots=False)


def end(pattern: str, name: str) -> bool:
    """Does it match the whole name, or all after a dot? This is PEFT's rule for pattern keys.

    Raises ValueError: see `parse`.
    """
    return _answer(pattern, name, after_dots=True)


def _answer(pattern, name, after_dots):
    budget = _shared.get() or _Budget()
    key = (pattern, name, after_dots)
    if key not in budget.known:
        budget.spend(4 + len(pattern) // 16)
        budget.known[key] = _matches(pattern, name, after_dots, budget)
    return budget.known[key]


def _matches(pattern, name, after_dots, budget):
    if after_dots and PLAIN.fullmatch(pattern):
        start = len(name) - len(pattern)
        begins = start == 0 or (start > 0 and name[start - 1] == ".")
        return begins and all(p in (".", c) for p, c in zip(pattern, name[start:], strict=True))
    budget.spend_to_read(pattern)
    ends = _Ends(name, budget)
    starts = 1 | ends.places(r"\.") << 1 if after_dots else 1
    return bool(ends.of(parse(pattern), starts) >> len(name) & 1)


@functools.lru_cache(maxsize=256)
def parse(pattern: str) -> Node:
    """The pattern as a tree.

    Raises ValueError if it is not a regular expression, is too long, or has a part that is not
    supported: back references, flags, possessive counts, atomic groups, characters beyond ASCII.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise ValueError(
            f"pattern {pattern[:40]!r}… has {len(pattern):,} characters, wanted at most "
            f"{MOST_CHARACTERS:,}"
        )
    if not pattern.isascii():  # `re` needs a millisecond for a class of many of them
        raise _refuse(pattern, "a character beyond ASCII")
    try:
        node, rest = _alternatives(pattern, 0, 0)
        _compiled(pattern)  # after what is not supported: `re` is slow with flags
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern {pattern!r:.80}: no regular expression: {error}") from None
    assert rest == len(pattern), "re.compile accepts no unbalanced pattern"
    return node


@functools.lru_cache(maxsize=1024)
def _compiled(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(source)


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
        parts = branches[-1]
        if parts and node[0] == parts[-1][0] == "here":  # one part: `re` looks for it as a whole
            _, source, width = parts.pop()
            node = ("here", source + node[1], width + node[2])
        parts.append(node)
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
        return ("here", token, 0), at + len(token)
    for letter in ESCAPE.findall(token):
        if letter.isalnum() and letter not in "dDwWsSntrfv":
            raise _refuse(pattern, f"'\\{letter}'")
    return ("here", token, 1), at + len(token)


def _counted(pattern, node, at):
    """The node under the count that follows it, if one does."""
    count = COUNT.match(pattern, at)
    if count is None or count[0] == "{}":
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
    """Where the parts of a pattern can end in one name.

    A set of places, of 0 to len(name), is a number whose bit i is place i.
    """

    def __init__(self, name: str, budget: _Budget):
        self.name, self.budget = name, budget

    def of(self, node: Node, starts: int) -> int:
        """The places where the node can end, if it begins at one of `starts`."""
        self.budget.spend(1)
        kind = node[0]
        if kind == "here":
            return (starts & self.places(node[1])) << node[2]
        if kind == "all":
            for part in node[1]:
                if starts:
                    starts = self.of(part, starts)
            return starts
        if kind == "any":
            return functools.reduce(int.__or__, (self.of(branch, starts) for branch in node[1]))
        if kind == "many":
            return self._repeated(node, starts)
        _, inner, wanted, behind = node
        if behind:  # where the inner pattern can end, wherever it begins
            seen = self.of(inner, (2 << len(self.name)) - 1)
        else:
            self.budget.spend(len(self.name))
            begins = [1 << i for i in range(len(self.name) + 1) if starts >> i & 1]
            seen = sum(begin for begin in begins if self.of(inner, begin))
        return starts & (seen if wanted else ~seen)

    def places(self, source: str) -> int:
        """The places where a source of fixed width, without counts and groups, fits."""
        key, known = (self.name, source), self.budget.places
        if key not in known:
            self.budget.spend_to_read(source)
            self.budget.spend(2 + len(self.name) // 8)
            found = _compiled(f"(?={source})").finditer(self.name)  # they may overlap
            known[key] = sum(1 << here.start() for here in found)
        return known[key]

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
