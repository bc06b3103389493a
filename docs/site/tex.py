"""The formulas in a docstring's text, as TeX: `y = x Wᵀ` becomes y=x\\,W^{\\top}.

A formula is a run of symbols, numbers and signs in which something is no plain word: a sign, a
power, a letter of Greek. A symbol is a letter, or a name that the caller knows; a word of English
ends the run, and so does the shape of an array.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

RAISED = dict(zip("¹²³⁴⁻ⁿᵃᶻ", "1234-naz")) | {"ᵀ": r"\top"}
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789"))
SIGNS = {
    "·": r"\cdot ", "←": r"\leftarrow ", "→": r"\to ", "≤": r"\le ", "≥": r"\ge ", "±": r"\pm ",
    "∂": r"\partial ", "Σ": r"\sum ", "∞": r"\infty ", "…": r"\dots ", "<": r"\lt ", ">": r"\gt ",
    ",": r",\ ", ";": r";\ ",
}  # fmt: skip
GREEK = {
    "β": r"\beta ", "η": r"\eta ", "λ": r"\lambda ", "σ": r"\sigma ", "Δ": r"\Delta ",
    "Θ": r"\Theta ", "Λ": r"\Lambda ", "alpha": r"\alpha ", "eps": r"\varepsilon ",
}  # fmt: skip
FUNCTIONS = "exp", "ln", "log", "max", "min", "softmax", "tanh"

UP, LOW = f"[{''.join(RAISED)}]", f"[{''.join(LOWERED)}]"
TOKEN = re.compile(
    r"(?P<word>->|[A-Za-z]{2,}(?:-[A-Za-z]+)+|[A-Za-z]+'[a-z]+)"
    r"|(?P<name>(?:Δ?[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*|[βηλσΔΘΛ](?:_[A-Za-z](?![a-z]))?)"
    rf"\u0302?{LOW}?{UP}*(?:'(?![a-z]))?)"
    rf"|(?P<number>\d+(?:\.\d+)?{UP}*|∞|…)"
    rf"|(?P<open>[(\[])|(?P<close>[)\]](?:\^-½|{UP}*))|(?P<norm>‖)"
    r"|(?P<relation>[=←→≤≥<>])|(?P<sign>[-+·/])|(?P<prefix>[√Σ∂±])"
    r"|(?P<comma>[,;])|(?P<space>\s+)|(?P<other>.)"
)
SHAPE = re.compile(r"\([\w·/… ]*,[\w·/…, ]*\)")
OPERAND = "name", "number", "close", "norm"  # what a formula may end with


class Token(NamedTuple):
    """A piece of text and its kind, a group of TOKEN."""

    kind: str
    text: str


def pieces(text: str, names: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """("text", …) and ("math", TeX), in order. names: words that are symbols here."""
    tokens = [Token(m.lastgroup or "", m[0]) for m in TOKEN.finditer(text)]
    start = i = 0
    while i < len(tokens):
        end = end_of_run(tokens, i, names)
        if not is_formula(tokens[i:end]):
            i += 1
            continue
        if start < i:
            yield "text", "".join(token.text for token in tokens[start:i])
        yield "math", tex(tokens[i:end])
        start = i = end
    if start < len(tokens):
        yield "text", "".join(token.text for token in tokens[start:])


def end_of_run(tokens: list[Token], start: int, names: Collection[str]) -> int:
    """Where the longest run from `start` ends, after its last operand; `start` if there is none."""
    end = i = start
    if tokens[i].kind == "space" or (i and tokens[i - 1].kind in OPERAND):
        return start
    while i < len(tokens) and is_math(tokens, i, names):
        if tokens[i].kind == "open":
            close = closing(tokens, i)
            inner = range(i + 1, close)
            attached = i > start and tokens[i - 1].kind != "space"
            fits = all(
                tokens[k].kind in ("comma", "close") or is_math(tokens, k, names) for k in inner
            ) and not SHAPE.fullmatch("".join(token.text for token in tokens[i : close + 1]))
            if not close or not (attached or fits):
                break
            i = close
        i += 1
        if tokens[i - 1].kind in OPERAND:
            end = i
    return end


def is_math(tokens: list[Token], i: int, names: Collection[str]) -> bool:
    """May this token stand in a formula? An unknown word may between signs, or before = or f(."""
    kind, text = tokens[i]
    if kind != "name":
        return kind not in ("word", "comma", "close", "other")
    plain = re.fullmatch("[a-z]{2,}|[A-Z][a-z]+|[A-Z]{2,}", text) and text not in GREEK
    if not plain or text in names or text in FUNCTIONS or re.fullmatch("d[a-z]", text):
        return bool(plain) or not re.fullmatch("[A-Za-z0-9]{3,}", text) or text in names
    before = next((t for t in reversed(tokens[:i]) if t.kind != "space"), Token("comma", ""))
    after = next((t for t in tokens[i + 1 :] if t.kind != "space"), Token("comma", ""))
    if after.text in ("=", "←") or tokens[i + 1 : i + 2] == [Token("open", "(")]:
        return True
    if before.text == "[":
        return after.kind == "close"
    ends = after.kind in ("sign", "relation", "close", "comma") or after.text == "."
    return ends and before.kind in ("sign", "relation", "prefix")


def closing(tokens: list[Token], i: int) -> int:
    """Where the bracket at i is closed; 0 if it is not."""
    depth = 0
    for k in range(i, len(tokens)):
        depth += (tokens[k].kind == "open") - (tokens[k].kind == "close")
        if not depth:
            return k
    return 0


def is_formula(tokens: list[Token]) -> bool:
    """Is something no plain word, and does no sign lack what it stands between?"""
    found = [token for token in tokens if token.kind != "space"]
    if not found or found[0].kind == "relation" or [t.kind for t in found].count("norm") % 2:
        return False
    for before, after in zip([Token("open", ""), *found], found):
        first = after.kind in ("sign", "relation") and before.kind not in OPERAND
        if first and (after.text != "-" or before.kind == "sign"):
            return False
    kinds = {token.kind for token in found if token.text != "…"}
    spoken = all(t.text.isascii() or t.text == "…" for t in found)
    called = found[0].text in FUNCTIONS and len(found) > 1  # tanh a
    return bool(kinds & {"sign", "relation", "prefix"}) or not spoken or called


def tex(tokens: list[Token]) -> str:
    """The tokens of a formula as TeX; symbols with a space between them keep a thin one."""
    found, i, norms = "", 0, 0
    while i < len(tokens):
        kind, text = tokens[i]
        i += 1
        if text == "√":  # of what is in brackets, of a sum to its end, or of one symbol
            end = i + 1
            if tokens[i].kind == "open":
                end = closing(tokens, i) + 1
            elif tokens[i].text == "Σ":
                end = len(tokens)
            inner = tokens[i + 1 : end - 1] if tokens[i].kind == "open" else tokens[i:end]
            found += rf"\sqrt{{{tex(inner)}}}"
            i = end
        elif kind == "space":
            before, after = tokens[i - 2].kind, tokens[i].kind
            apart = before in OPERAND and after in ("name", "number", "open", "prefix", "norm")
            found += r"\," if apart else ""
        elif kind == "norm":
            found += (r"\lVert ", r"\rVert ")[norms % 2]
            norms += 1
        elif kind == "name":
            found += symbol(text, is_called=tokens[i : i + 1] == [Token("open", "(")])
        else:
            body, up = re.fullmatch(rf"(.*?)(\^-½|{UP}*)", text).groups()  # type: ignore[union-attr]
            found += SIGNS.get(body, body) + raised(up)
    return found.strip()


def symbol(text: str, is_called: bool) -> str:
    """A name with its hat, its index, its power and its prime."""
    parts = re.fullmatch(rf"(Δ(?=\w))?(.+?)(\u0302?)({LOW}?)({UP}*)('?)", text)
    assert parts
    delta, name, hat, low, up, prime = parts.groups()
    base, _, index = name.partition("_")
    if index and len(base) > 1:  # start_step, a name; A_start, a symbol with an index
        base, index = name, ""
    if len(base) > 1 and base not in GREEK:
        style = "operatorname" if is_called or base in FUNCTIONS else "mathit"
        base = rf"\{style}{{%s}}" % base.replace("_", r"\_")
    base = GREEK.get(base, base)
    if hat:
        base = rf"\hat{{{base}}}"
    if len(index) > 1:
        index = rf"\mathrm{{{index}}}"
    if index or low:
        base += f"_{{{index or LOWERED[low]}}}"
    return (r"\Delta " if delta else "") + base + prime + raised(up)


def raised(up: str) -> str:
    """A power."""
    power = "-1/2" if up == "^-½" else "".join(RAISED[letter] for letter in up)
    return f"^{{{power}}}" if power else ""
