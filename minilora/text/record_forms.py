"""The forms of a user's records: the names in each form, and the training example it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..support.files import check_kind

Words = tuple[str, str | tuple[str, ...]]  # a prompt, and its completion or all right completions
FORMS = {  # form -> the names that a record of it has; the first form that fits is taken
    "pairs": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),  # and input
    "messages": ("messages",),  # a list of {"role", "content"}
    "sharegpt": ("conversations",),  # a list of {"from", "value"}
    "text": ("text",),
}
# a role in ShareGPT -> in a chat template
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
SPEAKERS = {"system", "user", "assistant", "tool"}


@dataclass(frozen=True)
class Chat:
    """A conversation: {"role": "system", "user" or "assistant", "content": text} in order.

    Only what the assistant says is learned.
    """

    messages: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Text:
    """A text without a prompt: all of it is learned, from its second token on."""

    text: str


Pair = Words | Chat | Text


def right_pair(pair: Any) -> tuple[str, tuple[str, ...]]:
    """The prompt and all right completions; training uses the first.

    Raises ValueError unless this is a prompt with one completion or more.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
        raise ValueError("wanted a pair (prompt, completion)")
    right = (pair[1],) if isinstance(pair[1], str) else tuple(pair[1])
    if not right:
        raise ValueError("a pair has no right completion, wanted at least one")
    return pair[0], right


def learned(place: str, record: Any, columns: tuple[str, str] | None = None) -> Pair | None:
    """The training example in a record; None if its prompt or the text to learn is empty.

    columns: the names of the prompt and the completion; None: those of its form. Raises ValueError
    that begins with `place`.
    """
    fit = (form for form, names in FORMS.items() if record.keys() >= {*names})
    form = "columns" if columns else next(fit, None)
    if form is None:
        forms = "; ".join(", ".join(names) for names in FORMS.values())
        raise ValueError(f"{place}: its names are {', '.join(record):.80}, wanted {forms}")
    if form == "messages":
        return _chat(place, record, form, "role", "content")
    if form == "sharegpt":
        return _chat(place, record, "conversations", "from", "value")
    texts = [_text(place, record, name) for name in columns or FORMS[form]]
    if not all(text.strip() for text in texts):
        return None
    if form == "text":
        return Text(texts[0])
    if form == "alpaca":
        given = _text(place, {"input": None, **record}, "input")
        texts[0] = f"{texts[0]}\n\n{given}\n" if given else f"{texts[0]}\n"
    return texts[0], texts[1]


def _text(place, record, name) -> str:
    """record[name], a text; null counts as an empty text."""
    if name not in record:
        raise ValueError(f"{place}: no {name} in it; its names are {', '.join(record):.80}")
    if record[name] is not None and not isinstance(record[name], str):
        raise ValueError(f"{place}: {name} is {record[name]!r:.80}, wanted some text")
    return record[name] or ""


def _chat(place, record, name, role, content) -> Chat | None:
    """A conversation; None if the assistant says nothing."""
    check_kind(place, name, record[name], [{role: "", content: ""}])
    turns = [{"role": ROLES.get(m[role], m[role]), "content": m[content]} for m in record[name]]
    if "assistant" not in (roles := [m["role"] for m in turns]) and {*roles} - SPEAKERS:
        got, wanted = ", ".join(dict.fromkeys(roles)), ", ".join(["assistant", *ROLES])
        raise ValueError(f"{place}: its roles are {got:.80}; wanted some of {wanted}")
    said = any(m["content"].strip() for m in turns if m["role"] == "assistant")
    return Chat(tuple(turns)) if said else None
