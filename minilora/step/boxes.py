"""The ops of a step as boxes of a drawing, and the row of each box in its layer."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from .watch import Event, layer_of

INNER = re.compile(r"(^|\.)(self_attn|mlp|layers\.\d+)?$")  # a place without a name of its own
MOVES_ROWS = "reshape", "take", "recompute"  # drawn in the box of its input


@dataclass
class Box:
    """One op or one linear of the model."""

    words: str
    layer: int  # -1: outside the layers
    leaves: dict[str, str] = field(default_factory=dict)  # arguments that train
    taped: bool = False
    row: int = 1
    lane: tuple[int, int] = (0, 1)  # its index, and how many boxes are side by side
    rows: int = 1  # its height: down to the box that reads it
    past: list[int] = field(default_factory=list)  # rows of sources whose arrays skip other boxes


def boxes(events: Sequence[Event], turn: int) -> tuple[list[Box], list[int | None]]:
    """The boxes of a step in order, and for each event the number of its box.

    Ops at the same named place share a box. turn: the first event of backward; a layer that is
    recomputed after it keeps its boxes.
    """
    found: dict[str, Box] = {}
    sources: dict[str, dict[str, None]] = {}  # box -> the boxes that it gets arrays from
    count, keys = Counter[str](), list[str | None]()
    for i, e in enumerate(events):
        if i == turn:
            count.clear()
        key: str | None = e.place
        if e.phase == "backward":
            key = keys[e.forward or 0]
        elif e.phase == "step":
            key = next((k for k in reversed(found) if " " not in k and k in e.place), None)
        elif e.op in MOVES_ROWS:
            made = e.source.get("a", e.source.get("x"))
            key = None if made is None else keys[made]
        elif INNER.search(e.place):
            kind = f"{e.place} {e.op}"
            count[kind] += 1
            key = f"{kind} {count[kind]}"
        if e.phase == "forward" and i < turn and key and e.op not in MOVES_ROWS:
            words = e.op.replace("add", "+") if " " in key else key.split(".")[-1]
            box = found.setdefault(key, Box(words, layer_of(key)))
            box.words, box.taped, box.leaves = words, box.taped or e.taped, box.leaves | e.leaves
            before = (k for made in e.source.values() if (k := keys[made]) and k != key)
            sources.setdefault(key, {}).update(dict.fromkeys(before))
        keys.append(key)
    for layer in {box.layer for box in found.values()}:
        _arrange({key: box for key, box in found.items() if box.layer == layer}, sources)
    numbers = {key: i for i, key in enumerate(found)}
    return [*found.values()], [numbers.get(key or "") for key in keys]


def _arrange(layer: dict[str, Box], sources) -> None:
    """Set rows and lanes: a box is below the boxes from which it gets arrays."""
    above: dict[str, set[str]] = {}
    main: dict[str, list[str]] = {}  # its direct sources only
    for key, box in layer.items():
        inner = [k for k in sources[key] if k in layer]
        above[key] = set(inner).union(*(above[k] for k in inner))
        main[key] = [k for k in inner if not any(k in above[other] for other in inner)]
        box.row = 1 + max([1, *(layer[k].row for k in inner)])
    for key, box in layer.items():
        beside = [k for k in layer if main[key] == main[k] and len(main[k]) == 1]
        if len(beside) > 1:
            box.lane = beside.index(key), len(beside)
        elif len(main[key]) == 1:
            box.lane = layer[main[key][0]].lane
        if main[key]:
            past = (k for k in sources[key] if k not in main[key])
            box.past = [layer[k].row if k in layer else 1 for k in past]
        for k in main[key]:
            layer[k].rows = box.row - layer[k].row
