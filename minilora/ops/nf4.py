"""NF4 with double quantisation: a frozen weight in 4.13 bits, and the linear that uses it.

A block of 64 weights stores absmax, its largest |w|. Each weight is stored in 4 bits: the one of 16
levels that is nearest to w / absmax. The levels are quantiles of a normal distribution, closest
together near 0, where most weights are. An absmax would take 32 bits. So the absmax are quantised
too: their mean is subtracted, and each becomes 8 bits, in blocks of 256.
Source: Dettmers et al. 2023, arXiv:2305.14314, section 3; the levels as in bitsandbytes.
"""

import numpy as np

from ..engine import Op

BLOCK = 64  # weights that share an absmax
SECOND = 256  # blocks whose absmax share a scale
# fmt: off
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
# fmt: on


def dynamic_levels():
    """256 levels in -1 … 1: seven decades, twice as many levels in each larger one.  -> (256,).

    Source: Dettmers 2015, arXiv:1511.04561, section 2.1.
    """
    levels: list[np.ndarray] = [np.array([0, 1], np.float32)]
    for i in range(7):
        n = np.arange(2**i + 1)
        step = float(np.float32(0.9) / np.float32(2**i))
        # from both ends, as torch.linspace does it, which bitsandbytes uses
        low, high = float(np.float32(0.1)) + step * n, 1 - step * n[::-1]
        edges = np.where(2 * n < 2**i, low, high).astype(np.float32)
        middles = (edges[1:] + edges[:-1]) / 2
        levels += [middles * np.float32(10.0 ** (i - 6)), middles * np.float32(-(10.0 ** (i - 6)))]
    return np.sort(np.concatenate(levels))


def in_blocks(a, size):
    """(n,) -> (blocks, size), the last block filled up with 0."""
    return np.pad(a, (0, -len(a) % size)).reshape(-1, size)


def block_codes(a, size, levels):
    """a ≈ level[code] · absmax of its block: the nearest level, or the lower of two.

    a (n,), levels (L,) rising, from about -1 to 1  ->  codes (n,) uint8, absmax (n/size,).
    """
    blocks = in_blocks(a, size)
    absmax = np.abs(blocks).max(axis=1)
    inverse = 1 / np.maximum(absmax, np.float32(1e-38))
    scaled, codes = blocks * inverse[:, None], np.zeros(blocks.shape, np.uint8)
    for middle in (levels[1:] + levels[:-1]) / 2:
        codes += scaled > middle
    return codes.reshape(-1)[: len(a)], absmax


def quantise_blocks(w):
    """w (n,)  ->  two codes per byte (n/2,), the first in the upper half; absmax (n/64,)."""
    codes, absmax = block_codes(w, BLOCK, np.array(LEVELS, np.float32))
    codes = in_blocks(codes, 2)
    return codes[:, 0] << 4 | codes[:, 1], absmax


def quantise_scales(absmax):
    """absmax = level[c2] · c1 + mean.   (b,)  ->  c2 (b,) uint8, c1 (b/256,), mean ()."""
    mean = np.array(absmax.mean(), np.float32)
    return *block_codes(absmax - mean, SECOND, dynamic_levels()), mean


def quantise(W):
    """W (O, I) float32  ->  codes (OI/2,) uint8, c2 (OI/64,) uint8, c1 (OI/16384,), mean ()."""
    codes, absmax = quantise_blocks(W.reshape(-1))
    return codes, *quantise_scales(absmax)


def dequantise(codes, c2, c1, mean, shape):
    """w = level[code] · absmax, absmax = level[c2] · c1 + mean.   ->  W of the shape, float32."""
    absmax = dynamic_levels()[c2] * np.repeat(c1, SECOND)[: len(c2)] + mean
    byte = np.arange(256)
    both = np.array(LEVELS, np.float32)[np.stack([byte >> 4, byte & 15], axis=1)]  # of each byte
    w = in_blocks(both[codes].reshape(-1), BLOCK)
    w *= absmax[:, None]
    return w.reshape(-1)[: shape[0] * shape[1]].reshape(shape)


def nf4_linear_forward(x, codes, c2, c1, mean, shape):
    """y = x Wᵀ, W dequantised.   x (M, I), shape (O, I), the rest from `quantise`  ->  y (M, O).

    Keeps the 4-bit codes, not W: W exists only during this product.
    Source: Dettmers et al. 2023, arXiv:2305.14314, eq. 5, without the adapter.
    """
    W = dequantise(codes, c2, c1, mean, shape)
    return x @ W.T, (codes, c2, c1, mean, shape)


def nf4_linear_backward(dy, cache):
    """dy (M, O) -> dx (M, I), None for all frozen arguments: the gradient passes through W."""
    W = dequantise(*cache)  # the same W again
    return dy @ W, None, None, None, None, None  # y = x Wᵀ


nf4_linear = Op(
    "nf4_linear",
    nf4_linear_forward,
    nf4_linear_backward,
    saves=("codes", "c2", "c1", "mean", "shape"),
)
