"""The tests: mathematics against independent judges, files against the libraries that own them,
commands as users type them; in rooms like the package's. Here: Hypothesis profiles, fixtures and
helpers of all of them.

MINILORA_TESTS=thorough draws many more examples, anew in each run; the default draws the same few
each time.
"""

import os
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from minilora import fast
from minilora.engine import backward, param
from minilora.llama.model import Llama, ModelConfig, init_params

# A terminal's width, which pytest-xdist gives its workers: the tests print as into a pipe.
os.environ.pop("COLUMNS", None)
# Several processes of tests share the processors: two threads are enough to meet a second one, and
# threads of BLAS that wait for each other take the time of the other processes.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# A shell's background jobs ignore Ctrl-C, and so would the tests and what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "quick",
    deadline=None,  # the first example may compile a kernel
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("MINILORA_TESTS", "quick"))


def rel(a, b) -> float:
    """‖a - b‖ / ‖b‖ (‖a‖ where b is 0)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))


def same_peak(said, found) -> bool:
    """Is a predicted peak the measured one within 2 %? The pages hold more than the twins: never
    less.
    """
    if not fast.on():
        return said.peak <= 1.02 * found.peak
    return abs(said.peak - found.peak) <= 0.02 * found.peak


def as_pair(f):
    """f(*tensors) -> tensor as a pair on plain arrays, which the engine differentiates."""

    def forward(*args):
        floats = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in args]
        leaves = [param(a) if is_float else a for a, is_float in zip(args, floats)]
        out = f(*leaves)
        return out.data, (out, leaves)

    def backward_(dout, cache):
        out, leaves = cache
        backward(out, dout)
        return tuple(getattr(leaf, "grad", None) for leaf in leaves)

    return forward, backward_


def make_llama(seed=0, dtype=np.float64, tokenizer=None, **changes) -> Llama:
    """A random Llama: 2 layers, 4 query heads on 2, tied; weights far from 0, gains from 1."""
    shape = dict(
        vocab_size=29,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    config = ModelConfig(**{**shape, **changes})
    rng = np.random.default_rng(seed + 1)
    params = init_params(config, seed, std=0.3)
    for a in params.values():
        if a.ndim == 1:  # gains of 1 would hide a gain that is forgotten
            a += 0.3 * rng.standard_normal(a.shape).astype(a.dtype)
    return Llama(config, {name: a.astype(dtype) for name, a in params.items()}, tokenizer)


@pytest.fixture
def tiny() -> Llama:
    """make_llama() in float64."""
    return make_llama()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


LAYOUTS = "plain", "transposed", "strided", "reversed", "read-only"


def laid_out(array, layout):
    """The same numbers in another order in memory."""
    if layout == "transposed":
        return np.ascontiguousarray(array.T).T
    if layout == "strided":
        wide = np.zeros([2 * n for n in array.shape], array.dtype)
        wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
        return wide[tuple(slice(None, None, 2) for _ in array.shape)]
    if layout == "reversed" and array.ndim:
        return np.ascontiguousarray(array[::-1])[::-1]
    array = array.copy()
    array.flags.writeable = layout != "read-only"
    return array
