"""mine: LoRA with a pair of its own. Change it into your technique.

minilora gradcheck --method mine.py:METHOD     the gradients
python mine.py                                 the test below; pytest mine.py runs it too
minilora train --task past --method mine.py:METHOD --lr 0.02
"""

import math
import tempfile

import numpy as np

import minilora as ml
from minilora.check import examples
from minilora.methods.base import Method
from minilora.support.meta import filled


def mine_forward(x, W, s, A, B):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ.   x (M, I), W (O, I) frozen, A (r, I), B (O, r)  ->  y (M, O)."""
    z = x @ A.T  # (M, r)
    y = x @ W.T + s * (z @ B.T)
    return y, (x, z, W, s, A, B)  # x for dA, z for dB


def mine_backward(dy, cache):
    """dy (M, O) -> dx (M, I), None, None, dA (r, I), dB (O, r): None where frozen."""
    x, z, W, s, A, B = cache
    dz = s * (dy @ B)  # y has s z Bᵀ
    dB = s * (dy.T @ z)  # y has s z Bᵀ
    dA = dz.T @ x  # z = x Aᵀ
    dx = dy @ W + dz @ A  # y has x Wᵀ, z = x Aᵀ
    return dx, None, None, dA, dB


mine = ml.Op("mine", mine_forward, mine_backward, saves=("x", "z", "W", "s", "A", "B"))


def init(W, rank, options, rng, shared):
    """The arguments after W of a fresh linear, which change nothing.   W (O, I)."""
    O, I = W.shape
    bound = 1 / math.sqrt(I)
    return {
        "s": options["alpha"] / rank,
        "A": filled(W, (rank, I), lambda: rng.uniform(-bound, bound, (rank, I))),
        "B": filled(W, (O, rank), lambda: 0),
    }


def delta(s, A, B, **_):
    """ΔW = s B A (O, I): what is added to W when the adapter is merged."""
    return s * (B @ A)


def count(I, O, rank):
    """How many numbers of one linear train: r (I + O)."""
    return rank * (I + O)


METHOD = Method(
    name="mine",
    title="mine",
    source="where it comes from: paper, arXiv id, equation",
    formula="W + s B A",
    op=mine,
    trains=("A", "B"),
    init=init,
    delta=delta,
    count=count,
)


def test_mine():
    """Gradients, start, count and bytes, training, the merged weight, what comes from the disk."""
    case, frozen = examples.of_method(METHOD), examples.frozen_of(METHOD)
    checked = ml.gradcheck(mine.forward, mine.backward, *case, frozen=frozen)
    print("✓ right:", ", ".join(f"d{name}" for name in checked))

    model = ml.load_model("base").astype(np.float64)
    ids, targets = batch = ml.batches(ml.load_task("past")[0], model.tokenizer, 8)[0]
    tuned = ml.attach(model, METHOD, rank=4)
    assert np.allclose(tuned.logits(ids), model.logits(ids))
    print("✓ a fresh adapter changes nothing")

    sizes = (model.params[f"{layer}.weight"].shape for layer in tuned.layers)
    numbers = sum(array.size for array in tuned.trainable.values())
    assert sum(count(I, O, 4) for O, I in sizes) == numbers
    assert dict(ml.ledger(tuned, batch=batch)) == dict(ml.measure(tuned, batch=batch))
    print(f"✓ {numbers:,} numbers train, and the predicted bytes are the measured ones")

    losses = ml.train(tuned, [batch], steps=5, lr=0.02).losses
    assert losses[-1] < losses[0]
    print(f"✓ the loss falls from {losses[0]:.2f} to {losses[-1]:.2f}")
    assert np.allclose(tuned.logits(ids), ml.merge(tuned).logits(ids))
    print("✓ merged, it answers as before")

    with tempfile.TemporaryDirectory() as folder:
        ml.save_adapter(tuned, folder)
        again = ml.load_adapter(model, folder, METHOD)
    for name, array in tuned.trainable.items():
        assert np.allclose(again.trainable[name], array), name
    print("✓ it comes back from the disk as it was")


if __name__ == "__main__":
    test_mine()
