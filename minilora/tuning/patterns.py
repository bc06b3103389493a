"""Regular expressions that choose layers by their names, matched without backtracking.

A pattern may come from an unknown adapter, and Python's `re` needs exponential time for some. Here
each part of the pattern is tried once at each place of the name; the result is the set of places
where the part can end. Groups, classes, counts, alternatives and looking ahead or behind mean the
same as in `re`. After MOST_STEPS steps the search ends with an error.
"""

import functools
import re
import warnings
from typing import Any

MOST_CHARACTERS, MOST_DEPTH, MOST_STEPS = 4000, 40, 100_000
PLAIN = re.compile(r"[\w.]+")  # a name, in which a dot stands for any character
TOKEN = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|.", re.S)  # a class, an escape, a character
COUNT = re.compile(r"([*+?])|\{(\d*)(,?)(\d*)\}")
GROUP = re.compile(r"\(\?(?:P<\w+>|[:=!]|<[=!])|\((?!\?)")
WORD = re.compile(r"\w")

Node = tuple[Any, ...]


def full(pattern: str, name: str) -> bool:
    """Does the pattern match the whole name? Raises ValueError: see `parse`."""
    return len(name) in _Ends(name).of(parse(pattern), 0)


def end(pattern: str, name: str) -> bool:
    """Does it match the whole name, or all that follows a dot? PEFT reads a pattern's key so.

    Raises ValueError: see `parse`.
    """
    if PLAIN.fullmatch(pattern) and len(pattern) > len(name):
        return False
    node, ends = parse(pattern), _Ends(name)
    starts = [0, *(i + 1 for i, c in enumerate(name) if c == ".")]
    if PLAIN.fullmatch(pattern):
        starts = [i for i in starts if len(name) - i == len(pattern)]
    return any(len(name) in ends.of(node, start) for start in starts)


@functools.lru_cache(maxsize=256)
def parse(pattern: str) -> Node:
    """The pattern as a tree.

    Raises ValueError if it is no regular expression, is too long, or has a part that is not
    supported: back references, flags, possessive counts, atomic groups.
    """
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
    """Where the parts of a pattern can end in one name."""

    def __init__(self, name: str):
        self.name, self.steps = name, 0
        self.known: dict[tuple[int, int], set[int]] = {}

    def of(self, node: Node, start: int) -> set[int]:
        """The places where the node can end, if it begins at `start`."""
        key = (id(node), start)
        if key not in self.known:
            self.known[key] = self._find(node, start)
        self.steps += 1 + len(self.known[key])
        if self.steps > MOST_STEPS:
            raise ValueError(f"pattern: more than {MOST_STEPS:,} steps for {self.name!r:.80}")
        return self.known[key]

    def _find(self, node, start) -> set[int]:
        kind = node[0]
        if kind == "one":
            fits = start < len(self.name) and node[1].fullmatch(self.name[start])
            return {start + 1} if fits else set()
        if kind == "all":
            ends = {start}
            for part in node[1]:
                ends = self._after(part, ends)
            return ends
        if kind == "any":
            return set().union(*(self.of(branch, start) for branch in node[1]))
        if kind == "many":
            return self._repeated(node, start)
        if kind == "look":
            return {start} if self._seen(node, start) == node[2] else set()
        return {start} if self._is_at(node[1], start) else set()

    def _after(self, node, starts) -> set[int]:
        return set().union(*(self.of(node, start) for start in starts))

    def _repeated(self, node, start) -> set[int]:
        _, inner, low, high = node
        most = len(self.name) + 1  # more turns than characters find nothing new
        ends = {start}
        for _ in range(min(low, most)):
            ends = self._after(inner, ends)
        found, new = set(ends), ends
        for _ in range(most if high is None else min(high - low, most)):
            new = self._after(inner, new) - found
            if not new:
                break
            found |= new
        return found

    def _seen(self, node, place) -> bool:
        """Does the inner pattern begin here, or, looking behind, end here?"""
        _, inner, _, behind = node
        if behind:
            return any(place in self.of(inner, start) for start in range(place + 1))
        return bool(self.of(inner, place))

    def _is_at(self, which, place) -> bool:
        if which in ("^", r"\A"):
            return place == 0
        if which in ("$", r"\Z"):
            return place == len(self.name)
        around = self.name[max(0, place - 1) : place], self.name[place : place + 1]
        before, after = (bool(WORD.fullmatch(c)) for c in around)
        return (before != after) == (which == r"\b")
