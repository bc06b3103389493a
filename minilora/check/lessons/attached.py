"""The pairs that a student writes and then trains the model with: notebooks 04, 05 and 06."""

from ...methods.lora import lora_backward, lora_forward
from . import lora
from .exercise import Exercise, blank_pair


def lora_pair(dy, x, W, s, A, B):
    """y and a gradient or None for each argument: dx, None, None, dA, dB."""
    y, cache = lora_forward(x, W, s, A, B)
    dx, dW, ds, dA, dB, *_ = lora_backward(dy, cache)
    return {"y": y, "dx": dx, "dW": dW, "ds": ds, "dA": dA, "dB": dB}


def lora_pair_cases(rng):
    """For y, dx, None, None, dA, dB = f(dy, x, W, s, A, B)."""
    names = ("dy", "x", "W", "s", "A", "B")
    paths = dict(rows=("dy", "x"), summed=("dA", "dB"), two_paths=("y", "dx"))
    return lora.cases(rng, lora_pair, names, **paths)


LORA: tuple[Exercise, ...] = (
    blank_pair(
        "lora_pair",
        "LoRA as a pair: forward(x, W, s, A, B) -> y, cache; backward(dy, cache) -> dx, None, "
        "None, dA, dB",
        (
            "The cache is a tuple with what backward reads.",
            "Your lora_backward reads x, W, s, A and B: that is a cache.",
            "return lora_forward(x, W, s, A, B), (x, W, s, A, B); then dx, dA, dB = "
            "lora_backward(dy, *cache)",
        ),
        lora_pair_cases,
        package=(lora_forward, lora_backward),
    ),
)
