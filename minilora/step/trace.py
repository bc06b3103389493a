"""One training step, recorded line by line and written as a page: `ml.trace`, `ml.trace_page`."""

import copy
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..fast import plain
from ..memory.saved import storages
from ..memory.step import base_kept, ledger, weight_arrays
from ..methods.base import Method, Moment
from ..ops.loss import IGNORED
from ..support.files import nearest
from ..support.meta import is_array
from ..tuning.adapters import Tuned, adapted
from ..tuning.optim import AdamW
from ..tuning.train import train
from . import page
from .boxes import INNER, boxes
from .equation import equation
from .figure import draw
from .moments import MODEL
from .undoes import undone
from .watch import Event, Function, Watch, layer_of


@dataclass
class Trace:
    """One step of one technique: its events in order, each with the lines that ran."""

    record: Method
    loss: float  # of the batch before the step, in nats a target
    events: list[Event]
    pages: dict[str, tuple[Function, ...]]  # name of a page -> its functions, backward last
    bytes: dict[str, int]  # weights, gradients, optimizer, activations; and the ledger's peak
    turn: int  # the first event of backward
    back: int  # the first event after backward
    labels: dict[int, list[str]]  # number of rows -> the token of each row
    text: tuple[str, str]  # of the first sequence: the prompt, the text to learn

    def at(self, event: int, line: int) -> tuple[Event, dict[str, np.ndarray], str]:
        """An event, the arrays of its names after the line has run, and the line's code."""
        it = self.events[event]
        code = self.pages[it.op][it.phase == "backward"].code
        names = dict(it.given)
        for _, changed in it.lines[: line + 1]:
            names |= changed
        return it, names, code.get(it.lines[line][0], "")

    def find(self, moment: Moment) -> tuple[int, int] | None:
        """(event, line) of a moment in this step; None if it does not happen."""
        for i, event in enumerate(self.events):
            if moment.is_in(event.phase, event.place, event.op, self.record.op.name):
                for j in range(len(event.lines)):
                    _, names, text = self.at(i, j)
                    if text.startswith(moment.line) and moment.holds(names | event.given):
                        return i, j
        return None

    def moments(self) -> list[tuple[Moment, int, int]]:
        """The moments of this step, each with its event and line: the technique's, the model's."""
        found = [(m, self.find(m)) for m in (*MODEL, *self.record.moments)]
        return [(m, *place) for m, place in found if place]

    def page(self, path: str | Path) -> Path:
        """Write the step as one interactive HTML file: see `trace_page`."""
        return trace_page(path, [self])

    def figure(self, moment: str | Moment) -> Any:
        """The line of a moment as an equation of pictures, by Matplotlib: see `figure.draw`.

        moment: the name of one of the step's moments, or your own Moment. Raises ValueError if it
        is not in this step.
        """
        own = {m.name: m for m, *_ in self.moments()}
        found = own.get(moment) if isinstance(moment, str) else moment
        place = found and self.find(found)
        if not place:
            raise nearest("moment of this step", getattr(moment, "name", str(moment)), own)
        event, names, text = self.at(*place)
        changes = event.lines[place[1]][1]
        title = f"{event.place} · {event.op}, {event.phase}"
        return draw(title, text, names, {n: a for n, a in changes.items() if n.startswith("Δ")})


def trace(
    tuned: Tuned,
    ids,
    targets,
    lr: float = 1e-3,
    layers: Collection[int] | None = None,
) -> Trace:
    """One training step with fresh optimizer moments: what each line reads and produces.

    The step is `train`'s, on a copy of the trained arrays: `tuned` stays bit-equal. It runs on the
    pages only, as under `plain()`. Other threads are not recorded; a debugger's or coverage's hook
    in this thread pauses meanwhile.
    ids, targets (N, T) ints: one batch, as for `train`; layers: those to record line by line; None:
    all (in a deep model this takes seconds and megabytes).
    The step counts as step 1, so Delta-LoRA with a later start does not move W in it.
    Raises TypeError if tuned is not what `attach` returned, ValueError for a wrong batch, rate or
    layer, or if two ops have one name.
    """
    adapted(tuned, "trace")
    every = range(tuned.config.num_hidden_layers)
    if layers is not None and not (layers and {*layers} <= {*every}):
        raise ValueError(f"trace: layers are {layers}, wanted some of 0 … {every[-1]}")
    ids, targets = np.array(ids), np.array(targets)  # copies for this step
    moving = _own_copy(tuned)
    weights = weight_arrays(moving)
    tables = moving.base.rope_tables(0, ids.shape[-1])
    watch = Watch(moving, [*weights, *tables], [ids, targets], layers)
    with plain(), watch:
        history = train(moving, [(ids, targets)], steps=1, lr=lr, progress=False)
    left_out = storages(base_kept(moving))
    held = {place: n for place, n in storages(weights).items() if place not in left_out}
    return Trace(
        record=tuned.record,
        loss=history.losses[0],
        events=watch.events,
        pages=watch.pages,
        bytes={
            "weights": sum(held.values()),
            "gradients": watch.gradients,
            "optimizer": AdamW(moving.trainable).nbytes,
            "activations": watch.activations,
            "peak": ledger(tuned, batch=(ids, targets)).peak,
        },
        turn=watch.turn,
        back=watch.back,
        labels=_labels(tuned, ids, targets),
        text=_text(tuned, ids, targets),
    )


def trace_page(path: str | Path, traces: Sequence[Trace] | Mapping[str, Trace]) -> Path:
    """Write steps on one batch as one HTML file, which needs no network; returns its path.

    traces: in the order in which the key T shows them. A mapping gives each step its title, such as
    {"LoRA, step 20": …}; without one, the title is the technique's. Raises ValueError for no trace,
    or for steps on different texts.
    """
    if isinstance(traces, Mapping):
        steps = [*traces.items()]
    else:
        steps = [(t.record.title, t) for t in traces]
    if not steps or len({t.text for _, t in steps}) > 1:
        texts = sorted({"".join(t.text) for _, t in steps})
        raise ValueError(f"trace_page: got steps on {texts}, wanted at least one, on one text")
    pages: dict[str, tuple[Function, ...]] = {}
    for _, t in steps:
        for name, functions in t.pages.items():
            if pages.setdefault(name, functions) != functions:
                raise ValueError(f"trace_page: two ops are named {name!r}, wanted a name for each")
    moments: dict[str, dict[str, Any]] = {}  # each name once, even if several techniques have it
    for i, (_, t) in enumerate(steps):
        for moment, event, line in t.moments():
            row = {"trace": i, "event": event, "line": line, "says": moment.says}
            moments.setdefault(moment.name, {"name": moment.name, **row})
    places = {row["name"]: (row["trace"], row["event"], row["line"]) for row in moments.values()}
    for i, (_, t) in enumerate(steps):
        for event, e in enumerate(t.events):
            places.setdefault(e.op, (i, event, 0))
    for i, (_, t) in enumerate(steps):
        op = next((k for k, e in enumerate(t.events) if e.op == t.record.name), 0)
        places[t.record.name] = i, op, 0
    places[""] = next(iter(places.values()))
    first = steps[0][1]
    data = {
        "prompt": first.text[0],
        "answer": first.text[1],
        "rows": first.labels,
        "pages": {name: _page(functions) for name, functions in pages.items()},
        "traces": [_step(title, t) for title, t in steps],
        "moments": [*moments.values()],
        "places": places,  # what may follow # in the address -> trace, event, line
    }
    return page.write(path, data)


def _step(title: str, t: Trace) -> dict[str, Any]:
    """A step's data for the page: totals, boxes, bands, events."""
    said = {name: t.bytes[name] for name in ("weights", "optimizer", "peak")}
    about = {"method": t.record.name, "title": title, "loss": t.loss}
    drawn, box_of = boxes(t.events, t.turn)
    events = [_event(t, e, box) for e, box in zip(t.events, box_of)]
    count = Counter[str]()
    for e in events:  # like: equal for the same event in another layer or technique
        kind = f"{e['phase']} {e['place']} {e['op'] if INNER.search(e['place']) else ''}"
        count[kind] += 1
        e["like"] = f"{kind} {count[kind]}"
    runs = itertools.groupby(events, key=_band)
    bands = [(*of, len([*run])) for of, run in runs]  # phase, words, how many events
    more = {"turn": t.turn, "boxes": [*map(vars, drawn)], "bands": bands, "events": events}
    return about | said | more


def _band(event: dict[str, Any]) -> tuple[str, str]:
    """The label below an event on the timeline: its phase and its layer."""
    layer = "" if event["layer"] < 0 else f"layer {event['layer']}"
    return event["phase"], "step" if event["phase"] == "step" else layer


def _event(t: Trace, event: Event, box: int | None) -> dict[str, Any]:
    """An event as the page draws it: lines as equations, the last one with what it returns."""
    functions = t.pages[event.op]
    part = functions[event.phase == "backward"]
    symbols = functions[0].symbols | part.symbols
    leaves = (event if event.forward is None else t.events[event.forward]).leaves

    def about(name):
        trains = name in leaves or (name[0] == "d" and name[1:] in leaves)
        return {"dims": symbols.get(name, ""), "trains": trains}

    out = re.search(r"->\s+([A-Za-z]\w*)", functions[0].doc)
    results = {"d" + row["of"]: row["array"] for row in event.gradients}
    results[out[1] if out else "out"] = event.out
    results = {name: a for name, a in results.items() if a is not None}
    names, lines = dict(event.given), []
    ran = event.lines or [(-1, {})]
    for i, (line, changes) in enumerate(ran):
        changes = changes | results if i == len(ran) - 1 else changes
        pieces = equation(part.code.get(line, ""), event.phase == "forward", names, changes)
        lines.append((line, [p if isinstance(p, str) else about(p["name"]) | p for p in pieces]))
        names |= changes
    words = re.sub(r"^(base_model\.)?(model\.)*|self_attn\.|mlp\.", "", event.place)
    words = re.sub(r"layers\.(\d+)\.?", r"layer \1 · ", words).removesuffix(" · ")
    same = ("phase", "op", "place", "taped", "forward", "frees", "bytes")
    return {name: getattr(event, name) for name in same} | {
        "where": words,
        "layer": layer_of(event.place),
        "box": box,
        "lines": lines,
        "keeps": [about(row["name"]) | row for row in event.keeps],
        "leaves": [row["leaf"] for row in event.gradients],
    }


def _page(functions: tuple[Function, ...]) -> dict[str, Any]:
    """An op's page: its functions, and what each line of backward undoes."""
    both = [f.function for f in functions]
    marks = undone(*both) if len(both) == 2 else {}
    marks = {line: sorted(places) for line, places in marks.items()}
    return {**dict(zip(("forward", "backward"), functions)), "undone": marks}


def _own_copy(tuned: Tuned) -> Tuned:
    """The same technique, with copies of all arrays that a step may change."""
    moving = copy.copy(tuned)
    moves = {"W", *tuned.record.trains, *tuned.record.remembers}
    moving.layers = {
        layer: {n: a.copy() if n in moves and is_array(a) else a for n, a in arguments.items()}
        for layer, arguments in tuned.layers.items()
    }
    moving.weights = {name: a.copy() for name, a in tuned.weights.items()}
    return moving


def _rows(tuned, ids, targets):
    """The ids of the computed rows: in all layers, and after the last layer's keys."""
    every, asked = tuned.base.rows_for(targets)
    tokens = ids.ravel() if every.batch is None else ids.ravel()[every.batch]
    return tokens, tokens if asked.among is None else tokens[asked.among]


def _labels(tuned, ids, targets):
    """Number of rows -> each row's token as text; without a tokenizer, its id."""
    return {len(rows): [_decode(tuned, [i]) for i in rows] for rows in _rows(tuned, ids, targets)}


def _decode(tuned, ids):
    if tuned.tokenizer is None:
        return " ".join(map(str, ids))
    return tuned.tokenizer.decode(ids)


def _text(tuned, ids, targets):
    """The first sequence: the prompt, and the text to learn."""
    counts = targets[0] != IGNORED
    start = int(counts.argmax()) + 1
    return _decode(tuned, ids[0, :start]), _decode(tuned, targets[0, counts]).rstrip("\n")
