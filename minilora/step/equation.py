"""A recorded line as an equation: pieces of its code, and the arrays of its names."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# a name with attributes, a subscript, a text, space, a number, or a sign
WORD = re.compile(
    r'([A-Za-z_]\w*(?:\["\w+"\])?)((?:\.[A-Za-z_]\w*)*)|(?<=[\w)\]])\[[^\]]*\]|"[^"]*"|\s+|[\d.]+|.'
)
FACT = re.compile(r"\.(shape|dtype|ndim|size)\b")  # a property of an array, not its numbers
ASSIGNMENT = re.compile(r"([^=(<>!]+?)\s*([-+*/@]?=(?!=))\s*(.*)")
CACHE = re.compile(r"^(return .*?)(, \(.*\)|,[^,()]*)$")  # what forward returns, and its cache
NO_PRODUCT = re.compile(r"[^\w\s.@*/()]|\w\(|\b(if|is|in|and|or|not)\b")
Item = dict[str, Any]  # name, array; turned: its transpose; fresh: it is new; note


def equation(code: str, forward: bool, names: Mapping, changes: Mapping) -> list[str | Item]:
    """Split a statement into text and arrays. A name becomes its array where it first appears.

    names: the arrays of the names before the statement. changes: what the statement made, changed
    in place (Δ) or returned; those that its code does not show come last.
    """
    parts = ASSIGNMENT.fullmatch(code)
    left, sign, right = parts.groups() if parts else ("", "", code)
    if forward:
        right = CACHE.sub(r"\1", right)
    pieces = _pieces(right, names)
    made = [*_pieces(left, {**names, **changes}, fresh=True), f" {sign} "] if sign else []
    for piece in made:
        if isinstance(piece, dict) and not np.any(piece["array"]):
            piece["note"] = _why_zero(right, pieces)
    for name, a in changes.items():
        shown = [p for p in pieces if isinstance(p, dict) and p["name"] == name and p["array"] is a]
        for piece in shown:
            piece["fresh"] = True
        if not shown and (name[0] == "Δ" if sign else f"Δ{name}" not in changes):
            words = " changes by " if name[0] == "Δ" else " → "
            pieces += [words, {"name": name, "array": a, "fresh": True}]
    return made + pieces


def _pieces(text: str, names: Mapping, fresh: bool = False) -> list[str | Item]:
    pieces: list[str | Item] = []
    seen = set()
    for match in WORD.finditer(text):
        name, more = match[1], match[2] or ""
        a, turned = names.get(name), bool(re.match(r"\.T\b", more))
        if a is None or FACT.search(more) or (name, turned) in seen:
            pieces.append(match[0])
        else:
            turned_picture = turned and a.ndim == 2
            item = {"name": name, "array": a, "turned": turned_picture, "fresh": fresh}
            pieces += [item, more[2:] if turned_picture else more]
        seen.add((name, turned))
    return pieces


def _why_zero(text: str, pieces: list[str | Item]) -> str:
    """Which factors make a product all 0. Empty if the code is not a plain product."""
    zero = [p["name"] for p in pieces if isinstance(p, dict) and not np.any(p["array"])]
    if not zero or NO_PRODUCT.search(text):
        return ""
    return f"since {' and '.join(zero)} {'are' if len(zero) > 1 else 'is'} 0"
