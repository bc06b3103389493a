"""A traced step: its bytes are the ledger's, its numbers the engine's, and nothing has moved."""

import base64
import dataclasses
import functools
import gzip
import json
import re
import struct
import sys
import threading

import numpy as np
import pytest
from battery import shake

import minilora as ml
from minilora.methods.base import Method
from minilora.step.moments import MODEL
from minilora.step.page import LIMIT, picture

RANKS = {"full": {}, "vera": {"rank": 16}}
CATEGORIES = "weights", "gradients", "optimizer", "activations"


@pytest.fixture(scope="module")
def model():
    return ml.load_model("base")


@pytest.fixture(scope="module")
def batch(model):
    return ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]


def attached(model, method, **how):
    name = getattr(method, "name", method)
    return ml.attach(model, method, **RANKS.get(name, {"rank": 4}), **how)


@pytest.fixture(scope="module")
def traces(model, batch):
    return {name: ml.trace(attached(model, name), *batch) for name in ml.METHODS}


HOWS = {
    "q and v": {},
    "all linears": {"targets": "all-linear"},
    "dropout": {"dropout": 0.1},
    "recompute": {"recompute": "layers"},
}


RUNS = [  # a technique and what it takes
    (name, how)
    for name, record in ml.METHODS.items()
    for how, given in HOWS.items()
    if given.keys() <= {"recompute", *record.takes, *record.options}
]


@pytest.mark.parametrize(("method", "how"), RUNS)
def test_the_bytes_are_the_ledgers(model, method, how):
    pairs = [("Dwalk>", ("walked",)), ("Dgo>", ("went",))]
    batch = ml.batches(pairs, model.tokenizer, 2)[0]
    tuned = attached(model, method, **HOWS[how])
    trace, ledger = ml.trace(tuned, *batch), ml.ledger(tuned, batch=batch)
    assert {c: trace.bytes[c] for c in CATEGORIES} == {c: ledger[c] for c in CATEGORIES}
    assert trace.bytes["peak"] == ledger.peak


def test_a_base_in_four_bits_is_traced(batch, tmp_path):
    tuned = attached(ml.load_model("base", weights="nf4", embeddings="int8"), "lora")
    trace, ledger = ml.trace(tuned, *batch), ml.ledger(tuned, batch=batch)
    assert {c: trace.bytes[c] for c in CATEGORIES} == {c: ledger[c] for c in CATEGORIES}
    assert trace.page(tmp_path / "runs" / "step.html").is_file()


def test_the_bytes_are_those_that_are_measured(model, batch):
    tuned = attached(model, "lora")
    trace, measured = ml.trace(tuned, *batch), ml.measure(tuned, batch=batch)
    assert {c: trace.bytes[c] for c in CATEGORIES} == {c: measured[c] for c in CATEGORIES}


def test_after_the_last_op_nothing_is_kept_and_the_gradients_are_there(traces):
    for trace in traces.values():
        kept, gradients, _ = trace.events[trace.back - 1].bytes
        assert (kept, gradients) == (0, trace.bytes["gradients"])


@pytest.mark.parametrize("method", ml.METHODS)
def test_gradients_and_steps_are_the_engines(model, batch, method):
    tuned = shake(attached(model, method))
    trace = ml.trace(tuned, *batch, lr=0.01)
    arrived: dict[str, np.ndarray] = {}
    for event in trace.events:
        for row in event.gradients if event.phase == "backward" else ():
            if row["leaf"]:
                arrived[row["leaf"]] = arrived.get(row["leaf"], 0) + row["array"]
    with ml.plain():
        leaves = tuned.leaves()
        loss = tuned.loss(*batch, leaves=leaves, key=(tuned.seed, 1, 0))
        ml.backward(loss)
        assert trace.loss == float(loss.data)
        for key, leaf in leaves.items():
            np.testing.assert_array_equal(arrived[key], leaf.grad, err_msg=key)
        before = {key: a.copy() for key, a in tuned.trainable.items()}
        ml.train(tuned, [batch], steps=1, lr=0.01, progress=False)
    steps = [e for e in trace.events if e.op == "adamw"]
    assert {e.place for e in steps} == before.keys()
    for event in steps:
        moved = event.lines[-1][1]["Δp"]
        np.testing.assert_array_equal(moved, tuned.trainable[event.place] - before[event.place])


def test_lines_hold_what_the_mathematics_says(model, batch):
    """dA = (s dy B)ᵀ x of every adapted linear, from what the events say of dy, B and x."""
    tuned = shake(attached(model, "lora"))
    trace, seen = ml.trace(tuned, *batch), 0
    for i, event in enumerate(trace.events):
        if event.phase == "backward" and event.op == "lora":
            _, names, _ = trace.at(i, len(event.lines) - 1)
            forward = trace.events[event.forward].given
            dA = (forward["s"] * names["dy"] @ forward["B"]).T @ forward["x"]
            np.testing.assert_allclose(names["dA"], dA, rtol=1e-4, atol=1e-6 * np.abs(dA).max())
            seen += 1
    assert seen == len(tuned.layers) == 8


def test_an_argument_comes_from_the_event_that_made_it(traces):
    for trace in traces.values():
        for event in trace.events[: trace.turn]:
            for name, made in event.source.items():
                theirs = trace.events[made].out
                assert event.given[name].tobytes() == theirs.tobytes(), (event.place, name)
        attention = next(e for e in trace.events if e.op == "attention")
        assert [trace.events[i].op for i in attention.source.values()] == [
            "rope",
            "rope",
            "reshape",
        ]


def test_each_op_has_its_place_also_off_the_tape_and_run_again(model, batch):
    places = {}
    for again in (None, "layers"):
        trace = ml.trace(attached(model, "lora", recompute=again), *batch)
        forward = [(e.op, e.place) for e in trace.events if e.phase == "forward"]
        places[again] = [place for place in forward if place[0] != "recompute"]
        assert {("frozen_linear", f"model.layers.{i}.self_attn.k_proj") for i in range(4)} <= {
            *forward
        }
        assert ("frozen_head_loss", "lm_head") in forward
    once, twice = places[None], places["layers"]
    inner = [place for place in once if "layers" in place[1]]
    assert twice[: len(once)] == once and sorted(twice[len(once) :]) == sorted(inner)


def test_looking_moves_nothing(model, batch):
    for method in ml.METHODS:
        tuned = shake(attached(model, method))
        arrays = {**tuned.arrays, **model.params}
        before = {name: a.tobytes() for name, a in arrays.items()}
        ml.trace(tuned, *batch, lr=1.0)
        assert before == {name: a.tobytes() for name, a in arrays.items()}, method
        assert tuned.arrays.keys() | model.params.keys() == arrays.keys(), method


def test_a_debugger_gets_its_hook_back_also_after_an_error(model, batch):
    def hook(frame, what, arg):
        return None

    before = sys.gettrace()
    sys.settrace(hook)
    try:
        ml.trace(attached(model, "lora"), *batch)
        assert sys.gettrace() is hook
        with pytest.raises(ValueError, match="lr"):
            ml.trace(attached(model, "lora"), *batch, lr=-1)
        assert sys.gettrace() is hook
    finally:
        sys.settrace(before)


def test_other_threads_are_not_recorded(model, batch):
    stop, alone = threading.Event(), len(ml.trace(attached(model, "lora"), *batch).events)

    def work():
        other = attached(model, "lora")
        while not stop.is_set():
            other.loss(*batch)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert len(ml.trace(attached(model, "lora"), *batch).events) == alone
    finally:
        stop.set()
        thread.join()


def scaled_forward(x, W, g, A):
    """y = x Wᵀ + g · (x Aᵀ).   x (M, I), W (O, I), g (O,), A (O, I)  ->  y (M, O)."""
    u = x @ A.T
    return x @ W.T + g * u, (x, u, W, g, A)


def scaled_backward(dy, cache):
    x, u, W, g, A = cache
    dg = (dy * u).sum(axis=0)  # y has g · u
    du = dy * g  # y has g · u
    return dy @ W + du @ A, None, dg, None


MINE = Method(
    name="mine",
    title="Mine",
    source="here",
    formula="W + diag(g) A",
    op=ml.Op("scaled", scaled_forward, scaled_backward, saves=("x", "u", "W", "g", "A")),
    trains=("g",),
    init=lambda W, rank, options, rng, shared: {
        "g": np.zeros(W.shape[0], W.dtype),
        "A": rng.standard_normal(W.shape).astype(W.dtype),
    },
    delta=lambda g, A, **_: g[:, None] * A,
    count=lambda I, O, rank: O,
    takes=("targets",),
)


def test_a_technique_of_ones_own_is_traced(model, batch):
    tuned = ml.attach(model, MINE)
    trace, ledger = ml.trace(tuned, *batch), ml.ledger(tuned, batch=batch)
    assert {c: trace.bytes[c] for c in CATEGORIES} == {c: ledger[c] for c in CATEGORIES}
    lines = [names for e in trace.events if e.op == "scaled" for _, names in e.lines]
    assert any("dg" in names for names in lines) and any("u" in names for names in lines)


def test_of_nested_loops_two_turns_each_are_recorded_and_the_rest_is_in_no_line(model):
    pairs = [("Dwalk>", ("walked",)), ("Dgo>", ("went",)), ("Dsee>", ("saw",)), ("Dbe>", ("was",))]
    trace = ml.trace(attached(model, "lora"), *ml.batches(pairs, model.tokenizer, 4)[0])
    for i, event in enumerate(trace.events):
        if event.op == "attention" and event.phase == "backward":
            lines = [trace.at(i, j)[2] for j in range(len(event.lines))]
            assert lines.count("d[k0:k1] = d_groups.swapaxes(0, 1)") == 4  # two of two sequences
            assert lines.count("ds = ds / math.sqrt(q.shape[2])") == 2
            assert lines[-1].startswith("return") and not event.lines[-1][1]


def decorated(function):
    @functools.wraps(function)
    def outer(*given):
        return function(*given)

    return outer


class Rule:
    def __call__(self, arrays, grads, options):
        grads["g"] *= 1.0


@pytest.mark.parametrize("wrap", [functools.partial, decorated])
def test_a_wrapped_pair_and_rules_that_are_objects_are_traced(model, batch, wrap):
    op = ml.Op("scaled", wrap(scaled_forward), wrap(scaled_backward), saves=("x", "u", "W", "g"))
    tuned = ml.attach(model, dataclasses.replace(MINE, op=op, grad_rule=Rule()))
    trace = ml.trace(tuned, *batch)
    lines = [trace.at(i, j)[2] for i, e in enumerate(trace.events) for j in range(len(e.lines))]
    assert lines.count("u = x @ A.T") == 8 and lines.count('grads["g"] *= 1.0') == 8


def test_two_ops_of_one_name_are_refused(tmp_path, model, batch, traces):
    op = ml.Op("lora", scaled_forward, scaled_backward)
    other = ml.trace(ml.attach(model, dataclasses.replace(MINE, op=op)), *batch)
    with pytest.raises(ValueError, match="two ops are named 'lora'"):
        ml.trace_page(tmp_path / "step.html", [traces["lora"], other])
    norm = ml.Op("rmsnorm", scaled_forward, scaled_backward)
    with pytest.raises(ValueError, match="two ops are named 'rmsnorm'"):
        ml.trace(ml.attach(model, dataclasses.replace(MINE, op=norm)), *batch)


def test_layers_that_the_model_lacks_are_refused(model, batch):
    for layers in ([4], [], [-1]):
        with pytest.raises(ValueError, match="wanted some of 0 … 3"):
            ml.trace(attached(model, "lora"), *batch, layers=layers)


def test_moments_of_the_first_step_are_not_shown_later(model, batch):
    trained = attached(model, "lora")
    ml.train(trained, [batch], steps=3, lr=0.01, progress=False)
    names = {moment.name for moment, *_ in ml.trace(trained, *batch).moments()}
    assert "A starts to learn" in names and "the first step of B" not in names
    still = ml.trace(attached(model, "delta_lora", update_ratio=0.0), *batch)
    assert not any("thin product" in moment.name for moment, *_ in still.moments())


def test_only_the_layers_asked_for_have_lines(model, batch):
    tuned = attached(model, "lora")
    whole, part = ml.trace(tuned, *batch), ml.trace(tuned, *batch, layers=[1])
    assert [(e.op, e.place, e.bytes) for e in part.events] == [
        (e.op, e.place, e.bytes) for e in whole.events
    ]
    for event in part.events:
        layer = re.search(r"layers\.(\d)", event.place)
        assert bool(event.lines) is (not layer or layer[1] == "1") or event.op == "recompute"


def test_every_moment_is_found(model, batch, traces):
    trained = attached(model, "lora")
    ml.train(trained, [batch], steps=3, lr=0.01, progress=False)
    steps = [*traces.values(), ml.trace(trained, *batch)]
    found = {moment.name for trace in steps for moment, *_ in trace.moments()}
    wanted = {m.name for record in ml.METHODS.values() for m in (*MODEL, *record.moments)}
    assert found == wanted and len(found) >= 11
    zero = next(m for m in ml.METHODS["lora"].moments if m.name.startswith("dA is 0"))
    assert traces["lora"].find(zero) and not steps[-1].find(zero)


def test_moments_show_what_they_say(traces):
    """The sentences that a number can refute."""
    looks = MODEL[0], MODEL[1]
    (i, j), (k, m) = (traces["lora"].find(moment) for moment in looks)
    scores = traces["lora"].at(i, j)[1]["s"]
    assert np.isinf(scores[:, 0, 1:]).all() and np.isfinite(scores[:, -1]).all()
    ds = traces["lora"].at(k, m)[1]["ds"]
    assert np.abs(ds.sum(axis=2)).max() < 1e-5 * np.abs(ds).max()
    moments: dict[str, tuple] = {}
    for trace in traces.values():
        for moment, i, j in trace.moments():
            moments.setdefault(moment.name, (trace, i, j))

    def change(name, of):
        trace, i, j = moments[name]
        return trace.events[i].lines[j][1][of]

    W = change("Delta-LoRA moves W by a thin product", 'Δarrays["W"]')
    assert np.linalg.matrix_rank(W.astype(float), tol=1e-3 * np.abs(W).max()) <= 8
    farther = np.abs(change("LoRA+ moves B farther", "Δp")).max()
    assert farther == pytest.approx(16 * np.abs(change("the first step of B", "Δp")).max())
    pairs = [e.given["A"] for e in traces["vera"].events if e.op == "vera" and "A" in e.given]
    assert len({a.tobytes() for a in pairs}) == 1


def data_of(path):
    """What the page's script reads."""
    packed = re.search(r">\s*([A-Za-z0-9+/=]{1000,})\s*<", path.read_text("utf-8"))
    raw = gzip.decompress(base64.b64decode(packed[1]))
    (n,) = struct.unpack("<I", raw[:4])
    return json.loads(raw[4 : 4 + n]), np.frombuffer(raw[4 + n :], np.int8)


def test_the_page_holds_every_line_of_every_technique(tmp_path, traces):
    path = ml.trace_page(tmp_path / "step.html", [*traces.values()])
    assert path.stat().st_size <= 2_000_000
    data, codes = data_of(path)
    assert data["prompt"] + data["answer"] == "Dwalk>walked"
    assert [t["method"] for t in data["traces"]] == [*ml.METHODS]
    for drawn, trace in zip(data["traces"], traces.values(), strict=True):
        assert [len(e["lines"]) for e in drawn["events"]] == [len(e.lines) for e in trace.events]
        for theirs, ours in zip(drawn["events"], trace.events, strict=True):
            known, results = dict(ours.given), {"d" + g["of"]: g["array"] for g in ours.gradients}
            for (line, pieces), (number, changes) in zip(theirs["lines"], ours.lines, strict=True):
                items = [piece for piece in pieces if isinstance(piece, dict)]
                fresh = {item["name"] for item in items if item.get("fresh")}
                last = changes is ours.lines[-1][1]
                assert line == number and fresh >= (results.keys() if last else set())
                for item in items:
                    new = (results if last else {}) | changes
                    returned = item.get("fresh") and last and ours.out is not None
                    old = ours.out if returned else known.get(item["name"])
                    made = new.get(item["name"], old) if item.get("fresh") else old
                    same_numbers(data["arrays"][item["array"]], codes, made)
                known |= changes
    assert data["moments"][0]["name"] == MODEL[0].name


def same_numbers(facts, codes, a):
    """A picture's facts are the array's, and its codes decode to within half a step."""
    if a.ndim == 0:
        assert facts["value"] == pytest.approx(float(a), rel=1e-5)
        return
    assert tuple(facts["shape"]) == a.shape
    finite = np.isfinite(a)
    largest = np.abs(a[finite]).max(initial=0)
    assert facts["max"] == pytest.approx(float(largest), rel=1e-3)
    if a.size <= LIMIT and "at" in facts:
        q = codes[facts["at"] :][: a.size].reshape(a.shape).astype(float)
        v = np.sign(q) * facts["max"] * (256 ** (np.abs(q) / 127) - 1) / 255
        assert ((q == -128) == ~finite).all()
        step = 256 ** (0.5 / 127) - 1 + 1e-3
        assert (np.abs(v - a)[finite] <= step * (np.abs(a[finite]) + largest / 255)).all()


def test_a_large_array_is_drawn_in_blocks_each_by_its_largest_number():
    a = np.random.default_rng(0).standard_normal((200, 300))
    facts, codes = picture(a)
    (tall, wide), (rows, columns) = facts["block"], facts["grid"]
    assert rows <= 64 and columns <= 64 and len(codes) == rows * columns
    block = a[tall : 2 * tall, wide : 2 * wide].ravel()
    largest = block[np.abs(block).argmax()]
    q = np.frombuffer(codes, np.int8).reshape(rows, columns)[1, 1]
    assert np.sign(q) * facts["max"] * (256 ** (abs(q) / 127) - 1) / 255 == pytest.approx(
        largest, rel=0.05
    )


def test_four_steps_of_lora_stay_below_three_megabytes(tmp_path, model, batch):
    tuned, traces = attached(model, "lora"), {}
    for n in range(4):
        ml.train(tuned, [batch], steps=3, lr=0.02, progress=False)
        traces[f"LoRA, step {n}"] = ml.trace(tuned, *batch)
    path = ml.trace_page(tmp_path / "steps.html", traces)
    assert path.stat().st_size <= 3_000_000
    assert [t["title"] for t in data_of(path)[0]["traces"]] == [*traces]


def test_a_page_is_of_one_text(tmp_path, model, traces):
    other = ml.batches([("Dgo>", ("went",))], model.tokenizer, 1)[0]
    steps = [traces["lora"], ml.trace(attached(model, "lora"), *other)]
    for wrong in (steps, []):
        with pytest.raises(ValueError, match="one text"):
            ml.trace_page(tmp_path / "step.html", wrong)
    assert not [*tmp_path.iterdir()]


def test_a_figure_of_each_moment_draws_its_names(traces):
    for trace in traces.values():
        for moment, i, j in trace.moments():
            figure = trace.figure(moment.name)
            titles = [axes.get_title().split()[0] for axes in figure.axes]
            names = trace.events[i].lines[j][1]
            assert titles and {n for n, a in names.items() if a.ndim} <= set(titles)
    with pytest.raises(ValueError, match="dA is 0 in the first step"):
        traces["lora"].figure("dA is 0 in the first stop")
