"""Each twin against its page: values, and caches by name, shape and bytes; shapes alone too."""

import copy
import dataclasses
import inspect
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from cases import OPS, PAIRS, arguments, running
from cases import twins as twins_of
from conftest import LAYOUTS, laid_out
from hypothesis import given
from hypothesis import strategies as st

import minilora as ml
from minilora import engine, fast, ops
from minilora.fast import twins
from minilora.methods.delta_lora import add_product
from minilora.ops.adamw import adamw
from minilora.ops.dropout import mask
from minilora.ops.loss import IGNORED
from minilora.support.meta import Meta, arrays_in

needs_numba = pytest.mark.skipif(fast.backend() == "numpy", reason="about Numba's twins")
WITH_TWIN = [name for name, pair in PAIRS.items() if any(f in twins.TWINS for f in pair)]
TOLERANCE = 2e-5  # of the largest number: a chain of float32 products, summed in another order


def single(args, layout="plain"):
    """The same arguments in float32, laid out in some way."""
    return [laid_out(a.astype(np.float32), layout) if is_float(a) and a.ndim else a for a in args]


def is_float(a):
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def close(got, wanted, what):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape and got.dtype == np.float32, what
    size = max(1.0, np.abs(wanted).max(initial=0))
    assert np.abs(got - wanted).max(initial=0) <= TOLERANCE * size, what


def of_shape(a):
    return Meta(a.shape, np.float32) if is_float(a) else a


def in_cache(name, cache):
    """(name, shape, bytes) of each array of a cache."""
    parts = cache if isinstance(cache, tuple) else (cache,)
    names = OPS[name].saves if name in OPS else range(len(parts))
    return [(n, a.shape, a.nbytes) for n, part in zip(names, parts) for a in arrays_in(part)]


def test_a_twin_has_its_page_s_name_and_arguments():
    """A backward's twin may also take the gradient to which it adds."""
    for function, fast_one in twins.TWINS.items():
        name = function.__name__
        assert inspect.unwrap(fast_one) is vars(twins)[name] is not function
        taken, wanted = (list(inspect.signature(f).parameters) for f in (fast_one, function))
        assert taken in (wanted, [*wanted, "add_to"][: len(taken)]), name
        assert taken == wanted or name.endswith("_backward")


def test_another_page_s_function_of_the_same_name_gets_no_twin():
    """A copy of a page, with a line changed, runs as it is written."""
    source = inspect.getsource(PAIRS["lora"][0]).replace("y = ", "y = 2 * ")
    for module in ("minilora.methods.mine", "methods.lora", "__main__"):
        names = {"__name__": module, "np": np}
        exec(source, names)
        x, W = np.ones((1, 2), np.float32), np.ones((3, 2), np.float32)
        op = engine.Op("mine", names["lora_forward"], lambda dy, cache: None)
        out = op(x, W, 1.0, W[:1], W[:, :1])
        assert out.data.tolist() == [[6.0] * 3] and op.fast.forward is op.forward


def test_a_copy_of_an_op_has_its_twins():
    """Also one that comes from another process."""
    op = ml.METHODS["lora"].op
    twin = (op.fast or op.look_up()).forward
    assert inspect.unwrap(twin) is twins.lora_forward
    for copied in (copy.deepcopy(op), pickle.loads(pickle.dumps(op))):
        assert copied.look_up().forward is twin
    assert pickle.loads(pickle.dumps(mask)) is mask


def test_every_op_names_what_it_saves():
    for name, (forward, _) in PAIRS.items():
        if name in OPS:
            _, cache = forward(*arguments(name))
            one_thing = not isinstance(cache, tuple) or name in ("reshape", "transpose")
            assert len(OPS[name].saves) == (1 if one_thing else len(cache)), name
            assert set(OPS[name].constants) <= set(OPS[name].saves)


SIZES = st.one_of(st.integers(1, 9), st.sampled_from([16, 33, 49]))


@needs_numba
@pytest.mark.smoke
@pytest.mark.parametrize("name", WITH_TWIN)
@given(
    sizes=st.tuples(SIZES, SIZES, SIZES, st.integers(1, 9)),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 999),
)
def test_a_twin_gives_what_its_page_gives(name, sizes, layout, seed):
    """The page in float64 on the same numbers; the caches have the same arrays by name."""
    (forward, backward), (fast_forward, fast_backward) = PAIRS[name], twins_of(name)
    args = single(arguments(name, seed, *sizes), layout)
    wide = [a.astype(np.float64) if is_float(a) else a for a in args]
    out, cache = fast_forward(*args)
    wanted, page_cache = forward(*wide)
    _, page_cache_single = forward(*args)
    close(out, wanted, f"{name}: value")
    assert in_cache(name, cache) == in_cache(name, page_cache_single)
    dout = np.asarray(np.random.default_rng(seed).standard_normal(np.shape(out)))
    grads = fast_backward(dout.astype(np.float32), cache)
    for i, (got, exact) in enumerate(zip(grads, backward(dout, page_cache), strict=True)):
        assert (got is None) == (exact is None)
        if got is not None:
            close(got, exact, f"{name}: gradient {i}")
    if OPS[name].takes_need:  # nothing before the first argument trains
        need = (False,) + (True,) * (len(grads) - 1)
        fewer = fast_backward(dout.astype(np.float32), cache, need)
        for got, exact in zip(fewer, backward(dout, page_cache, need), strict=True):
            assert (got is None) == (exact is None)
            if got is not None:
                close(got, exact, f"{name}: gradient where x has none")


@pytest.mark.parametrize("name", WITH_TWIN)
@pytest.mark.parametrize("seed", range(4))
def test_a_twin_on_shapes_alone_has_the_same_cache(name, seed):
    forward, backward = running(name)
    args = single(arguments(name, seed, 6, 4, 5, 3))
    out, cache = forward(*args)
    shape, shape_cache = twins_of(name)[0](*map(of_shape, args))
    assert shape.shape == out.shape and in_cache(name, shape_cache) == in_cache(name, cache)
    grads = backward(np.ones_like(out), cache)
    dout = Meta(shape.shape) if isinstance(shape, Meta) else np.ones_like(shape)
    shapes = backward(dout, shape_cache)
    for got, alone in zip(grads, shapes, strict=True):
        assert (got is None) == (alone is None) and (got is None or got.shape == alone.shape)


@pytest.mark.parametrize("name", WITH_TWIN)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_page_keeps_the_dtype(name, dtype):
    forward, backward = PAIRS[name]
    args = [a.astype(dtype) if is_float(a) else a for a in arguments(name, 1)]
    out, cache = forward(*args)
    grads = backward(np.ones_like(out), cache)
    assert out.dtype == dtype and {g.dtype for g in grads if g is not None} == {np.dtype(dtype)}


# ---------------------------------------- a twin answers only if every array fits

SINGLE, DOUBLE = np.float32, np.float64


def each_in_turn(args):
    """The arguments in one precision, but one of the arrays in the other."""
    places = [i for i, a in enumerate(args) if is_float(a) and a.ndim]
    for place, (one, rest) in itertools.product(places, ((SINGLE, DOUBLE), (DOUBLE, SINGLE))):
        yield [
            a.astype(one if i == place else rest) if i in places else a for i, a in enumerate(args)
        ]


def same(got, wanted, what):
    """Equal in structure, shapes and dtypes, and in values up to rounding."""
    for a, b in zip(arrays_in(got), arrays_in(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), what
        size = max(1.0, np.abs(b).max(initial=0))
        assert np.abs(np.subtract(a, b, dtype=DOUBLE)).max(initial=0) <= TOLERANCE * size, what


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sizes", [(6, 5, 4, 3), (1, 70, 66, 2), (90, 33, 49, 17)])
@pytest.mark.parametrize("name", OPS)
def test_mixed_precisions_give_what_the_page_gives(name, sizes, layout):
    """Each array in turn is of the other precision; so is the gradient that comes in."""
    (forward, backward), page = running(name), OPS[name]
    for args in each_in_turn(arguments(name, 1, *sizes)):
        args = [laid_out(a, layout) if is_float(a) else a for a in args]
        what = f"{name}: {[a.dtype.name for a in args if is_float(a)]}"
        out, cache = page.forward(*args)
        same(forward(*args), (out, cache), what)
        for dtype in (SINGLE, DOUBLE):
            dout = np.ones_like(out, dtype)
            same(backward(dout, cache), page.backward(dout, cache), what)
        if page.value:
            value = (page.fast or page.look_up()).value
            same([np.asarray(value(*args))], [np.asarray(page.value(*args))], what)


ROWS = np.linspace(0.1, 1, 60_000).reshape(3, 4, 5000)  # large enough for a kernel and two threads


@pytest.mark.parametrize(
    "function, args",
    [
        (engine.add, (ROWS[0], ROWS[1])),
        (mask, (ROWS[0], 0.3, (0, 1, 0, 0))),
        (add_product, (ROWS[0], ROWS[1, :, :4], ROWS[2])),
        (adamw, (*ROWS, ROWS[0], 0.1, 0.9, 0.99, 1e-8, 0.01, 3)),
    ],
)
def test_mixed_precisions_where_there_is_no_op(function, args):
    """What it returns, and what it writes."""
    for mixed in each_in_turn(args):
        mine, theirs = ([a.copy() if is_float(a) else a for a in mixed] for _ in range(2))
        got, wanted = (
            arrays_in([f(*arrays), *arrays])
            for f, arrays in ((function, mine), (inspect.unwrap(function), theirs))
        )
        same(got, wanted, function.__name__)


@pytest.mark.parametrize("name", WITH_TWIN)
def test_mixed_precisions_on_shapes_alone(name):
    """Shapes and dtypes are those of arrays with numbers."""
    for args in each_in_turn(arguments(name, 1, 6, 4, 5, 3)):
        out, cache = OPS[name].forward(*args)
        shapes = [Meta(a.shape, a.dtype) if is_float(a) and a.ndim else a for a in args]
        shape, shape_cache = running(name)[0](*shapes)
        assert (shape.shape, shape.dtype) == (out.shape, out.dtype), name
        grads = OPS[name].backward(np.ones_like(out), cache)
        dout = Meta(out.shape, out.dtype) if out.ndim else np.ones_like(out)
        for got, wanted in zip(running(name)[1](dout, shape_cache), grads, strict=True):
            assert (got is None) == (wanted is None), name
            assert got is None or (got.shape, got.dtype) == (wanted.shape, wanted.dtype), name


@pytest.mark.parametrize("name, place", [("cross_entropy", 1), ("head_loss", 2), ("attention", 3)])
def test_numbers_with_fractions_are_refused_where_a_page_wants_whole_ones(name, place):
    """Targets, spans: a twin that rounded them would give another answer than the page."""
    args = single(arguments(name, 1, 6, 4, 5, 3))
    args[place] = args[place] + 0.5
    for forward in (running(name)[0], OPS[name].forward):
        with pytest.raises((IndexError, TypeError), match="int"):
            forward(*args)


def test_a_twin_that_adds_may_be_given_what_does_not_fit(rng):
    """The page does not know of the gradient so far: the sum is made beside it."""
    x, dy, so_far = rng.standard_normal((3, 4, 5))
    forward, backward = running("rmsnorm")
    for dtype in (SINGLE, DOUBLE):
        _, cache = forward(x.astype(SINGLE), np.ones(5, dtype), 1e-5)
        got = backward(dy.astype(SINGLE), cache, add_to=so_far)[0]
        assert got.dtype == DOUBLE
        same([got], [so_far + ops.rmsnorm.backward(dy.astype(SINGLE), cache)[0]], dtype)


# ---------------------------------------- the head: logits for some rows at a time


def head(rng, M, V, C, ignored):
    targets = rng.integers(0, V, M)
    targets[rng.random(M) < ignored] = IGNORED
    h, W = (rng.standard_normal(shape, dtype=np.float32) for shape in ((M, C), (V, C)))
    return h, W, targets


@needs_numba
@pytest.mark.parametrize("chunk", [1, 3, 128])
@pytest.mark.parametrize("ignored", [0.0, 0.5, 1.0])
def test_the_head_in_chunks_is_the_page(chunk, ignored, rng, monkeypatch):
    monkeypatch.setattr(twins, "CHUNK", chunk)
    h, W, targets = head(rng, 10, 6, 4, ignored)
    for op in (ops.head_loss, ops.frozen_head_loss):
        loss, cache = twins_of(op.name)[0](h, W, targets)
        wanted, page_cache = op.forward(h, W, targets)
        close(loss, wanted, "loss")
        for got, exact in zip(arrays_in(cache), arrays_in(page_cache), strict=True):
            np.testing.assert_allclose(got, exact, atol=1e-5)
        np.testing.assert_allclose(twins.head_loss_value(h, W, targets), wanted, rtol=1e-5)


@needs_numba
@pytest.mark.parametrize("name", ["head_loss", "frozen_head_loss"])
@pytest.mark.parametrize("trains", [True, False])
def test_no_array_of_all_logits_is_ever_alive(name, trains, rng):
    M, V = 2048, 1000
    h, W, targets = head(rng, M, V, 4, 0.0)
    loss = getattr(ops, name)(h, W, targets)  # compiled now
    tracemalloc.start()
    loss = getattr(ops, name)(ml.param(h) if trains else h, W, targets)
    if trains:
        ml.backward(loss)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < M * V * 4 / 2  # chunks of 128 rows: about a sixteenth, a few at a time


@needs_numba
def test_rows_that_do_not_count_are_not_multiplied(rng, monkeypatch):
    """A thousandth of the targets counts: so many rows of logits are made, and no more."""
    rows, product = [], twins.K.matmul_nt
    monkeypatch.setattr(twins.K, "matmul_nt", lambda x, w: rows.append(len(x)) or product(x, w))
    h, W, targets = head(rng, 1000, 4, 2, 1.0)
    targets[[3, 997]] = 1
    ops.frozen_head_loss(ml.param(h), W, targets)
    assert rows == [2]


def test_a_shape_that_no_twin_serves_is_the_page_s_own():
    """The page takes more: x of three axes, rank 0, arguments by name; or it says what is wrong."""
    x, W = np.ones((2, 3, 4), np.float32), np.ones((5, 4), np.float32)
    assert ops.frozen_linear(x, W).shape == (2, 3, 5)
    none = np.zeros((0, 4), np.float32), np.zeros((5, 0), np.float32)
    assert ml.METHODS["lora"].op(x[0], W, 2.0, *none).shape == (3, 5)
    with pytest.raises(ValueError, match="matmul"):
        ops.frozen_linear(x[0], W[:, :3])
    key = (0, 1, 0, 2)
    assert np.array_equal(mask(x=x[0], p=0.5, key=key), mask(x[0], 0.5, key))


def test_any_callable_may_be_half_of_a_pair():
    @dataclasses.dataclass  # equal by value, so it has no hash
    class Times:
        k: float

        def __call__(self, x):
            return x * self.k, None

    op = engine.Op("times", Times(2.0), lambda dy, cache: (2 * dy,))
    assert op(np.ones(3, np.float32)).data.tolist() == [2.0] * 3
