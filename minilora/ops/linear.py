"""The linear layer: one pair for a trained W, which keeps x, and one for a frozen W."""

from ..engine import Op


def linear_forward(x, W):
    """y = x Wᵀ.   x (M, I), W (O, I)  ->  y (M, O)."""
    return x @ W.T, (x, W)  # x for dW, W for dx; W is a reference


def linear_backward(dy, cache, need=(True, True)):
    """dy (M, O) -> dx (M, I), dW (O, I).   need: for each argument, is its gradient wanted?"""
    x, W = cache
    dx = dy @ W if need[0] else None  # y = x Wᵀ
    dW = dy.T @ x if need[1] else None  # y = x Wᵀ
    return dx, dW


def frozen_linear_forward(x, W):
    """y = x Wᵀ, W frozen.   x (M, I), W (O, I)  ->  y (M, O). Keeps W and no activation."""
    return x @ W.T, W


def frozen_linear_backward(dy, W):
    """dy (M, O) -> dx (M, I), None."""
    return dy @ W, None  # y = x Wᵀ


linear = Op("linear", linear_forward, linear_backward, saves=("x", "W"))
frozen_linear = Op("frozen_linear", frozen_linear_forward, frozen_linear_backward, saves=("W",))
