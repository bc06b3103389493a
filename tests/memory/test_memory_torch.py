"""PyTorch as a peer: what its tape keeps of one adapted linear, beside what ours keeps."""

import inspect

import numpy as np
import pytest

from minilora import ops
from minilora.memory.saved import arrays_in, storages
from minilora.methods import METHODS

torch = pytest.importorskip("torch")

M, I, O, R = 1000, 256, 128, 8


def kept_by_torch(method, p):
    """Bytes that autograd saves for y = x Wᵀ + adapter(dropout(x)), without the weights."""
    g = torch.Generator().manual_seed(0)
    x, W, A, B = (torch.randn(shape, generator=g) for shape in ((M, I), (O, I), (R, I), (O, R)))
    b, d = torch.randn(O, generator=g), torch.randn(R, generator=g)
    x.requires_grad_()  # something upstream trains
    trains = {"lora": (A, B), "lora_fa": (B,), "vera": (b, d)}[method]
    for a in trains:
        a.requires_grad_()
    besides = {a.data_ptr() for a in (W, A, B, b, d)}
    kept = {}

    def pack(t):
        if t.data_ptr() not in besides:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y, xd = x @ W.T, torch.nn.functional.dropout(x, p) if p else x
        y = y + (xd @ A.T * d @ B.T * b if method == "vera" else xd @ A.T @ B.T * 2.0)
    y.sum().backward()
    return sum(kept.values())


def kept_by_us(method, p):
    record, rng = METHODS[method], np.random.default_rng(0)
    x, W = rng.standard_normal((M, I)).astype("f4"), rng.standard_normal((O, I)).astype("f4")
    options = {**record.options, "alpha": 16.0}
    shared = record.prepare([W.shape], R, options, W) if record.prepare else {}
    given = {"W": W} | record.init(W, R, options, rng, shared)
    names = [n for n in inspect.signature(record.op.forward).parameters if n in given]
    arguments = [given[name] for name in names]
    weights = storages(a for a in arguments if isinstance(a, np.ndarray))
    dropped, kept = ops.dropout.forward(x, p, (0, 1, 0, 0)) if p else (None, ())
    _, cache = record.op.forward(x, *arguments, dropped)
    places = storages([*arrays_in(cache), *arrays_in(kept)])
    return sum(n for place, n in places.items() if place not in weights)


X, Z, Y = 4 * M * I, 4 * M * R, 4 * M * O  # bytes of x (and of a mask of floats), xAᵀ, y


@pytest.mark.parametrize(
    "method, p, ours, theirs",
    [
        ("lora", 0.0, X + Z, X + Z),
        ("lora_fa", 0.0, Z, Z),
        ("vera", 0.0, Z, Z + Y),  # they keep v, which comes again from u
        ("lora", 0.1, X + Z, 2 * X + Z),  # they keep the mask, and x after it in x's place
        ("lora_fa", 0.1, Z, X + Z),  # the mask is as large as the x that was saved
        ("vera", 0.1, Z, X + Z + Y),
    ],
)
def test_one_adapted_linear(method, p, ours, theirs):
    assert kept_by_us(method, p) == ours
    assert kept_by_torch(method, p) == theirs
