"""What every technique must satisfy: functions check_…(name) that read METHODS[name] and no more.

A further technique passes through them unchanged, with a second writing of its own in ELEMENTARY.
"""

import dataclasses
import functools
import gc
import inspect
import itertools
import tracemalloc
import warnings

import numpy as np
import pytest
from conftest import make_llama, rel
from hypothesis import given
from hypothesis import strategies as st

import minilora as ml
from minilora import engine, ops
from minilora.tuning.optim import AdamW
from minilora.tuning.train import gradients

# ---------------------------------------- models, batches, one adapted linear


@functools.cache
def base(dtype="float64", width=16):
    """One random Llama for all: tests hold that nothing writes into it."""
    return make_llama(dtype=dtype, hidden_size=width, intermediate_size=3 * width // 2)


def batch(seed=0, N=3, T=6, ignored=0.3):
    """(ids, targets) with a part of the targets at -100."""
    rng = np.random.default_rng(seed)
    ids, targets = rng.integers(0, 29, (2, N, T))
    targets[rng.random((N, T)) < ignored] = -100
    targets[0, 0] = 3
    return ids, targets


BATCHES = [batch(seed) for seed in range(5)]


def tune(name, model=None, rank=3, targets="all-linear", seed=0, **options):
    """attach, with what of rank, targets and options the technique takes."""
    record, model = ml.METHODS[name], model or base()
    asked = {"rank": rank, "targets": targets}
    known = {
        k: v
        for k, v in options.items()
        if k in record.options or (k == "alpha" and "alpha" in record.takes)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ranks above the width are of use to tests
        return ml.attach(
            model, name, seed=seed, **{k: v for k, v in asked.items() if k in record.takes}, **known
        )


def shake(tuned, seed=5, size=0.1):
    """Move every trained array: none is zero, every path of backward carries something."""
    rng = np.random.default_rng(seed)
    for a in tuned.trainable.values():
        a += size * rng.standard_normal(a.shape)
    return tuned


def copies(arrays):
    return {name: a.copy() for name, a in arrays.items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def site(name, M=5, I=4, O=3, rank=2, s=1.5, p=0.0, seed=0, dtype=np.float64):
    """One adapted linear's arguments by name, in forward's order; what trains is never zero."""
    record, rng = ml.METHODS[name], np.random.default_rng(seed)
    options = {**record.options, "alpha": s * rank}
    W = rng.standard_normal((O, I)).astype(dtype)
    shared = record.prepare([W.shape], rank, options, W) if record.prepare else {}
    given = {"x": rng.standard_normal((M, I)).astype(dtype), "W": W}
    given |= record.init(W, rank, options, rng, shared)
    for a in record.trains:
        given[a] = rng.standard_normal(given[a].shape).astype(dtype)
    if record.derived:  # a frozen argument: it need not fit the others for the pair to be right
        given |= {a: 1.5 * v for a, v in record.derived(**given).items()}
    if p:
        given["xd"] = ops.dropout.forward(given["x"], p, (seed, 1, 0, 3))[0]
    return {a: given[a] for a in inspect.signature(record.op.forward).parameters if a in given}


@st.composite
def sites(draw, name):
    """Shapes, ranks from 1 to I + 2, scalings, dropout where the technique has it."""
    size = st.integers(1, 6)
    M, I, O = draw(size), draw(size), draw(size)
    p = draw(st.sampled_from([0.0, 0.1, 0.5])) if ml.METHODS[name].has_dropout else 0.0
    rank, s = draw(st.integers(1, I + 2)), draw(st.sampled_from([0.25, 1.0, 2.0, 16.0]))
    return site(name, M, I, O, rank, s, p, seed=draw(st.integers(0, 2**16)))


# ---------------------------------------- the pair


def check_gradients(name):
    """backward against finite differences; x and what trains get gradients, `need` or not."""
    record = ml.METHODS[name]

    @given(sites(name))
    def run(args):
        wanted = {"x", *record.trains, *(["xd"] if "xd" in args else [])}
        frozen = [a for a, v in args.items() if isinstance(v, np.ndarray) and a not in wanted]
        ml.gradcheck(record.op.forward, record.op.backward, *args.values(), frozen=frozen)
        out, cache = record.op.forward(*args.values())
        dy = np.random.default_rng(0).standard_normal(out.shape)
        grads = dict(zip(args, record.op.backward(dy, cache)))
        assert {a for a, g in grads.items() if g is not None} == wanted
        if record.op.takes_need:
            need = tuple(a in record.trains for a in args)
            fewer = dict(zip(args, record.op.backward(dy, cache, need)))
            assert fewer["x"] is None and fewer.get("xd") is None
            assert all(np.array_equal(fewer[a], grads[a]) for a in record.trains)

    run()


def check_second_writing(name):
    """Value and gradients are those of the technique in elementary ops, to 1e-12."""
    record = ml.METHODS[name]

    @given(sites(name))
    def run(args):
        out, cache = record.op.forward(*args.values())
        dy = np.random.default_rng(0).standard_normal(out.shape)
        grads = dict(zip(args, record.op.backward(dy, cache)))
        differ = [a for a in ("x", "xd", *record.trains) if a in args]
        taped = {a: engine.param(v) if a in differ else v for a, v in args.items()}
        again = ELEMENTARY[name](**taped)
        engine.backward(again, dy)
        assert rel(out, again.data) < 1e-12
        for a in differ:
            scale = max(np.abs(taped[a].grad).max(), 1e-3 * np.abs(dy).max())
            assert np.abs(grads[a] - taped[a].grad).max() <= 1e-12 * scale, a

    run()


def check_delta(name):
    """forward without dropout is x (W + ΔW)ᵀ; a fresh adapter changes nothing."""
    record = ml.METHODS[name]

    @given(sites(name))
    def run(args):
        x, rest = args["x"], {a: v for a, v in args.items() if a not in ("x", "xd")}
        rest |= record.derived(**rest) if record.derived else {}
        wanted = x @ (rest["W"] + record.delta(**rest)).T
        out, _ = record.op.forward(x, **rest)
        assert np.abs(out - wanted).max() <= 1e-12 * max(1, np.abs(wanted).max())

    run()
    tuned = tune(name)
    assert rel(tuned.logits(BATCHES[0][0]), base().logits(BATCHES[0][0])) < 1e-14
    for layer in tuned.layers:  # up to rounding, where a part is taken out of W and added again
        W = base().params[f"{layer}.weight"]
        assert rel(W + tuned.delta(layer), W) < 1e-14


def check_nothing_saved_in_vain(name):
    """No array can be taken out of the cache: NaNs in its place reach a gradient."""
    record = ml.METHODS[name]
    for p in (0.0, 0.5) if record.has_dropout else (0.0,):
        out, cache = record.op.forward(*site(name, p=p).values())
        dy = np.ones_like(out)
        right = record.op.backward(dy, cache)
        for i, entry in enumerate(cache):
            if isinstance(entry, np.ndarray):
                spoilt = (*cache[:i], np.full_like(entry, np.nan), *cache[i + 1 :])
                assert not _same(record.op.backward(dy, spoilt), right), (
                    f"entry {i} of the cache is not read"
                )


def _same(grads, others):
    return all(g is None or np.array_equal(g, h) for g, h in zip(grads, others, strict=True))


# ---------------------------------------- the adapted model


def hold_derived(tuned):
    """Frozen arguments made from others stay as they are now: constants, as in backward."""
    if tuned.record.derived:
        params = tuned.base.params
        held = {
            id(params[f"{layer}.weight"]): tuned.record.derived(
                W=params[f"{layer}.weight"], **arrays
            )
            for layer, arrays in tuned.layers.items()
        }
        tuned.record = dataclasses.replace(tuned.record, derived=lambda W, **_: held[id(W)])
    return tuned


def check_model_gradients(name):
    """∂loss/∂ every trained array through the model, against differences along a direction."""
    tuned = hold_derived(shake(tune(name)))
    _, grads = gradients(tuned, [BATCHES[0]])
    rng = np.random.default_rng(3)
    for key, a in tuned.trainable.items():
        direction, start = rng.standard_normal(a.shape), a.copy()
        values = {}
        for t in (-2, -1, 1, 2):
            a[...] = start + t * 1e-4 * direction
            values[t] = float(tuned.loss(*BATCHES[0]).data)
        a[...] = start
        numeric = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / 12e-4
        size = np.linalg.norm(grads[key] * direction) + abs(numeric) + 1e-3
        assert abs((grads[key] * direction).sum() - numeric) < 1e-7 * size, key


def check_count(name):
    """count, summed over the targets, is the number of trained numbers."""
    record = ml.METHODS[name]
    shapes, params = base().config.linears(), base().params
    for rank, targets in ((1, "q_proj"), (3, "all-linear"), (2, ("k_proj", "down_proj"))):
        tuned = tune(name, rank=rank, targets=targets)
        rank_given = rank if "rank" in record.takes else None
        layers = tuned.layers or shapes
        counted = sum(
            record.count(I, O, rank_given) for O, I in (shapes[layer] for layer in layers)
        )
        others = sum(a.size for k, a in params.items() if k.removesuffix(".weight") not in shapes)
        trained = sum(a.size for a in tuned.trainable.values())
        assert trained == counted + (others if record.whole_model else 0)
        assert trained == sum(slot.array.size for slot in tuned.trained())


def check_base_untouched(name):
    """Bit for bit after attach, train, merge, unmerge, logits, detach."""
    model = base()
    before = copies(model.params)
    tuned = tune(name)
    ml.train(tuned, BATCHES, steps=3, lr=1e-2, weight_decay=0.1)
    tuned.logits(BATCHES[0][0])
    ml.unmerge(ml.merge(tuned), tuned)
    assert ml.detach(tuned) is model
    assert same_bits(model.params, before)


def check_merge(name):
    """Merged it answers as before; unmerge gives the base back; tuned stays as it was."""
    for dtype, tolerance, back in (("float64", 1e-12, 1e-12), ("float32", 1e-5, 1e-6)):
        tuned = shake(tune(name, base(dtype)))
        ml.train(tuned, BATCHES, steps=2, lr=1e-2)
        ids, before = BATCHES[0][0], copies(tuned.arrays)
        merged = ml.merge(tuned)
        assert merged.dtype == dtype
        assert rel(merged.logits(ids), tuned.logits(ids)) < tolerance
        assert rel(merged.logits(ids), base(dtype).logits(ids)) > 1e-3
        again = ml.unmerge(merged, tuned).params
        assert all(rel(again[k], a) < back for k, a in base(dtype).params.items())
        assert same_bits(tuned.arrays, before)


def check_training(name):
    """The loss on a fixed batch falls; the same seed gives the same bits; the record is plain."""
    for dtype in ("float64", "float32"):
        runs = []
        for _ in range(2):
            tuned = tune(name, base(dtype), dropout=0.1)
            history = ml.train(tuned, [BATCHES[0]], steps=25, lr=3e-3)
            runs.append((history.losses, copies(tuned.arrays)))
            assert min(history.losses[-3:]) < history.losses[0]
            assert all(type(v) is float for v in history.losses + history.rates)
        assert runs[0][0] == runs[1][0] and same_bits(runs[0][1], runs[1][1])
    same = same_bits(tune(name, seed=1).arrays, tune(name, seed=0).arrays)
    assert same != draws(tune(name))


def draws(tuned):
    """Does the technique's init draw random numbers?"""
    rng, unused = np.random.default_rng(0), np.random.default_rng(0)
    shared = {k: np.ones((2, 2)) for k in tuned.shared}
    tuned.record.init(np.ones((2, 2)), 2, {**tuned.options, "alpha": 1.0}, rng, shared)
    return rng.bit_generator.state != unused.bit_generator.state


def check_frozen_stays(name):
    """Training moves every trained array and no other, except a weight that a step rule moves."""
    record, tuned = ml.METHODS[name], tune(name)
    before = copies(tuned.arrays)
    ml.train(tuned, BATCHES, steps=3, lr=1e-2, weight_decay=0.1)
    for key, a in before.items():
        moves = bool(record.after_step) and key.endswith(".base_layer.weight")
        assert np.array_equal(a, tuned.arrays[key]) != (key in tuned.trainable or moves), key


def check_round_trip(name, folder):
    """Saved and loaded, it answers the same and trains on as the same technique."""
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        tuned = shake(tune(name, base(dtype)))
        ml.train(tuned, BATCHES, steps=3, lr=1e-2)
        written = ml.save_adapter(tuned, folder)
        assert written == (folder / "adapter_model.safetensors").stat().st_size
        loaded = ml.load_adapter(base(dtype), folder, method=name)
        assert loaded.method == name
        assert rel(loaded.logits(BATCHES[0][0]), tuned.logits(BATCHES[0][0])) < tolerance
        ml.train(loaded, BATCHES, steps=1, lr=1e-3)


def check_options(name):
    """An option that the technique has not is refused by name, and so is what it does not take."""
    record = ml.METHODS[name]
    with pytest.raises(ValueError, match="banana"):
        ml.attach(base(), name, banana=1)
    for word, value in {"rank": 2, "alpha": 2.0, "targets": "q_proj"}.items():
        if word not in record.takes:
            with pytest.raises(ValueError, match=f"takes no {word}"):
                ml.attach(base(), name, **{word: value})
    for option, default in record.options.items():
        tuned = ml.attach(base(), name, **{option: default})
        assert tuned.options == record.options
        with pytest.raises(ValueError, match=option):
            ml.attach(base(), name, **{option: float("nan")})
    if not record.has_dropout:
        with pytest.raises(ValueError, match="dropout"):
            ml.attach(base(), name, dropout=0.1)


def check_accumulate(name):
    """Two micro-batches with unequal counts of targets give the joined batch's gradients."""
    tuned = shake(tune(name))
    parts = [batch(8, N=2, ignored=0.1), batch(9, N=2, ignored=0.8)]
    joined = tuple(np.concatenate(a) for a in zip(*parts, strict=True))
    loss, grads = gradients(tuned, parts)
    loss_joined, grads_joined = gradients(tuned, [joined])
    assert abs(loss - loss_joined) < 1e-12
    assert all(rel(grads[k], g) < 1e-12 for k, g in grads_joined.items())


# ---------------------------------------- interrupted and resumed


class Stopped(Exception):
    pass


def check_resume(name, folder):
    """Interrupted within a step's micro-batches, resumed from the last checkpoint: same bits."""
    settings = dict(
        steps=6, lr=1e-2, weight_decay=0.1, clip=1.0, accumulate=2, schedule="cosine", warmup=2
    )
    # Delta-LoRA: at the interruption W has begun to move, or has not
    for start_step, dtype in ((2, "float64"), (5, "float64"), (2, "float32")):
        options = {"dropout": 0.1, "start_step": start_step, "corrected": True}
        whole = tune(name, base(dtype), **options)
        history = ml.train(whole, BATCHES, **settings)

        path = folder / f"{dtype}{start_step}.safetensors"
        cut = tune(name, base(dtype), **options)

        def until_the_ninth():
            yield from itertools.islice(itertools.cycle(BATCHES), 9)
            raise Stopped

        with pytest.raises(Stopped):  # within step 5; the last checkpoint is of step 4
            ml.train(cut, until_the_ninth(), **settings, checkpoint=path, checkpoint_every=2)
        resumed = tune(name, base(dtype), **options)
        continued = ml.train(resumed, BATCHES, **settings, checkpoint=path, resume=True)
        assert continued.losses == history.losses and continued.rates == history.rates
        assert same_bits(resumed.arrays, whole.arrays)
        assert np.array_equal(resumed.logits(BATCHES[0][0]), whole.logits(BATCHES[0][0]))


# ---------------------------------------- memory


def check_measure(name):
    """What measure says, against what Python allocates and the optimizer's own arrays."""
    model = base("float32", width=128)
    of_base = sum(a.nbytes for a in model.params.values())
    with traced() as alive:
        tuned = tune(name, model, rank=16)
        gc.collect()  # what an initialisation by a decomposition leaves behind is not held
        attached = alive()
        adam = AdamW(tuned.trainable)
        moments = alive() - attached
    said = ml.measure(tuned, 2, 8)
    assert all(type(said[k]) is int for k in ("weights", "gradients", "optimizer", "activations"))
    assert abs(said["weights"] + said.base_kept - of_base - attached) < 20_000
    assert abs(said["optimizer"] - moments) < 20_000 and said["optimizer"] == adam.nbytes
    assert said["gradients"] == sum(a.nbytes for a in tuned.trainable.values())


def check_activations(name):
    """What forward leaves alive is what measure says, within 1 %; after backward, gradients."""
    with ml.plain():  # Numba's own allocations are not traced
        for dtype, dropout in (("float64", 0.0), ("float32", 0.1)):
            tuned = shake(tune(name, base(dtype, width=64), dropout=dropout), size=0.01)
            said = ml.measure(tuned, 48, 32)  # warms up: rope tables, Python's own caches
            ids, targets = np.random.default_rng(0).integers(0, 29, (2, 48, 32))
            with traced() as alive:
                leaves = tuned.leaves()
                loss = tuned.loss(ids, targets, leaves=leaves, key=(0, 1, 0))
                held = alive()
                engine.backward(loss)
                left = alive()
            angles = 48 * 32 * tuned.config.head_dim * tuned.base.dtype.itemsize
            assert abs(held - angles - said["activations"]) < 0.01 * said["activations"]
            assert abs(left - said["gradients"]) < 0.01 * said["activations"]


def check_caches_freed(name):
    """Backward leaves no cache behind, and a second walk is refused."""
    tuned = tune(name)
    loss = tuned.loss(*BATCHES[0], leaves=tuned.leaves(), key=(0, 1, 0))
    nodes = engine.tape(loss)
    assert any(node.op is ml.METHODS[name].op for node in nodes)
    engine.backward(loss)
    assert all(node.op is None or node.cache is engine.FREED for node in nodes)
    with pytest.raises(ValueError, match="walked before"):
        engine.backward(loss)


class traced:
    """with traced() as alive: … alive() — bytes allocated since and still there."""

    def __enter__(self):
        gc.collect()
        tracemalloc.start()
        start = tracemalloc.get_traced_memory()[0]
        return lambda: tracemalloc.get_traced_memory()[0] - start

    def __exit__(self, *_):
        tracemalloc.stop()


# ---------------------------------------- each technique a second time, in elementary ops


def _low_rank(x, W, s, A, B, xd=None):
    return x @ W.T + ((x if xd is None else xd) @ A.T) @ B.T * s


def _vectors(x, W, A, B, b, d, xd=None):
    return x @ W.T + (((x if xd is None else xd) @ A.T) * d) @ B.T * b


def _rows_of_a_size(x, W, s, A, B, m, norm):
    return x @ (W + B @ A * s).T * (m / norm)


ELEMENTARY = {
    "full": lambda x, W: x @ W.T,
    "lora": _low_rank,
    "lora_fa": _low_rank,
    "vera": _vectors,
    "delta_lora": _low_rank,
    "lora_plus": _low_rank,
    "dora": _rows_of_a_size,
}
