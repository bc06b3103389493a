"""Answers to the exercises, right and wrong: exercise -> (answer, verdict, words of the check).

An answer is what the function returns, as an expression in the exercise's arguments; or the lines
of its body; or after "is", the answer itself. For a number it is the number. The verdict is
"passed", "open" or "failed"; or the name of the slip with which it failed.
"""

import functools
import inspect
import math
import sys
import textwrap
from collections import namedtuple
from fractions import Fraction

import numpy as np

from minilora_course import EXERCISES


def lora(dy, x, W, s, A, B):
    """dx, dA, dB."""
    dz = s * dy @ B
    return dy @ W + dz @ A, dz.T @ x, s * dy.T @ (x @ A.T)


def vera(dy, u, W, A, B, b, d):
    """dx, db, dd."""
    dz = (dy * b) @ B
    return dy @ W + (dz * d) @ A, (dy * ((d * u) @ B.T)).sum(0), (dz * u).sum(0)


def softmax(scores):
    """Over each row."""
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def up_the_stack(found):
    """What `found` gives for a variable of one of the functions that called this one."""
    frame = sys._getframe(1)
    while frame:
        for value in list(frame.f_locals.values()):
            parts = value if isinstance(value, list | tuple) else [value]
            for part in parts:
                if part is not None and (wanted := found(part)) is not None:
                    return wanted
        frame = frame.f_back
    raise LookupError("nothing found")


def true_of(value):
    """The right outputs of a case, or of an exercise's first case."""
    if hasattr(value, "true") and hasattr(value, "args"):
        return tuple(value.true.values())
    if hasattr(value, "cases") and hasattr(value, "hints"):
        return tuple(value.cases(np.random.default_rng(0))[0].true.values())
    return None


class Scaled:
    """An answer may be an object that can be called."""

    def __call__(self, W, s, A, B):
        return W + s * B @ A

    def merge(self, W, s, A, B):
        return W + s * (B @ A)


NAMES = {  # what a student's cell has
    **{"np": np, "math": math, "sys": sys, "inspect": inspect, "functools": functools},
    **{"Fraction": Fraction, "Step": namedtuple("Step", "A B"), "Scaled": Scaled},
    **{"lora": lora, "vera": vera, "softmax": softmax},
    **{"up_the_stack": up_the_stack, "true_of": true_of},
}

ANSWERS = {
    # ------------------------------------------------------------------------ numbers
    "tour_count": [
        ("1792", "passed", "r (I + O) for each weight"),
        ("1792.0", "passed", "1,792 is right"),
        ("np.int64(1792)", "passed", ""),
        ("np.array(1792)", "passed", ""),  # a 0-d array is a number
        ("np.float32(1792)", "passed", ""),
        ("Fraction(1792)", "passed", ""),
        ("np.array([1792])", "failed", "got a ndarray, wanted a number"),
        ("[1792]", "failed", "got a list, wanted a number"),
        ("'1792'", "failed", "got a str, wanted a number"),
        ("True", "failed", "got a bool, wanted a number"),
        ("1792 + 0j", "failed", "got a complex, wanted a number"),
        ("768", "failed", "LoRA-FA's count"),
        ("24576", "failed", "full fine-tuning"),
        ("math.nan", "failed", "yours"),
        ("math.inf", "failed", "yours"),
        ("lambda: 1792", "failed", "wanted a number"),
        ("None", "open", "no number yet"),
        ("...", "open", "no number yet"),
    ],
    "tape_bytes": [
        ("2 * np.zeros((100, 100)).nbytes", "passed", ""),
        ("80_000", "failed", "that is one array"),
        ("160_001", "failed", "not the number"),
    ],
    "lora_first_step": [
        ("0", "passed", "only B moves"),
        ("np.zeros(())", "passed", ""),
        ("1e-9", "failed", "not the number"),
    ],
    "fair_error": [
        ("0.02", "passed", ""),
        ("np.sqrt(np.array(0.8) * 0.2 / 400)", "passed", ""),
        ("0.0199", "passed", ""),
        ("0.2", "failed", "not the number"),
        ("0.4", "failed", "divide by √n"),
    ],
    "lora_plus_rate": [
        ("np.float64(0.002) * 16", "passed", ""),
        ("0.002 / 16", "failed", "B is the fast one"),
    ],
    # ------------------------------------------------------------------------ 00, the tour
    "tour_step": [
        ("w - lr * dw", "passed", "w' is right, in float64, on 3 sets of arguments"),
        ("w + (-lr) * dw", "passed", "in float64"),
        ("np.subtract(w, np.multiply(lr, dw))", "passed", "in float64"),
        ("(w - lr * dw).tolist()", "passed", "in float64"),
        ("[w - lr * dw]", "passed", "in float64"),
        ("(w - lr * dw,)", "passed", "in float64"),
        ("(w - lr * dw) + 0j", "passed", "in float64"),
        ("np.matrix(w) - lr * dw if w.ndim == 2 else w - lr * dw", "passed", "in float64"),
        ("w = w.copy()\nw -= lr * dw\nreturn w", "passed", "in float64"),
        ("(w - lr * dw).astype(np.float32)", "passed", "to the precision of float32"),
        ("np.float32(w) - np.float32(lr) * np.float32(dw)", "passed", "w' comes back as float32"),
        ("np.float32(w) - lr * dw", "passed", "agrees to seven digits or fewer"),
        ("w + lr * dw", "sign", "w', or a part of it, has the wrong sign"),
        ("lr * dw - w", "sign", "has the wrong sign"),
        ("(w - lr * dw).astype(np.float16)", "dtype", "as if float16 or integers had held it"),
        ("np.float16(w) - np.float16(lr) * np.float16(dw)", "dtype", "float16"),
        ("(w - lr * dw).astype(int)", "dtype", "right but for rounding"),
        ("np.round(w - lr * dw)", "dtype", "right but for rounding"),
        ("-lr * dw", "path missing", "one of its two parts: the old value, and the step"),
        ("w", "path missing", "one of its two parts"),
        ("w - dw", "failed", "w' is wrong"),
        ("w * (1 - lr)", "failed", "w' is wrong"),
        ("w - 0.1 * dw", "failed", "w' is wrong"),  # a rate in place of the argument
        ("2 * (w - lr * dw)", "failed", "w' is twice the right one"),
        ("(w - lr * dw) * np.nan", "failed", "yours nan"),
        ("np.full_like(w, np.inf)", "failed", "yours inf"),
        ("np.zeros_like(w)", "failed", "w' is wrong"),
        ("None", "open", "not written yet"),
        ("return", "open", "not written yet"),
        ("pass", "open", "not written yet"),
        ('"""Gradient descent."""\n...', "open", "not written yet"),
        ("raise NotImplementedError", "open", "not written yet"),
        ("new = w - lr * dw", "failed", "it returned None: is the return missing?"),
        ("print(end='')", "failed", "it returned None"),
        ("w -= lr * dw\nreturn w", "failed", "it wrote into its argument w"),
        ("w - lr * dw, dw", "failed", "it returned 2 values, wanted 1: w'"),
        ("'w'", "failed", "a str"),
        ("{'w': w - lr * dw}", "failed", "a dict"),
        ("(number for number in w)", "failed", "a generator"),
        ("[[1.0], [1.0, 2.0]]", "failed", "w' is wrong"),
        ("w > lr * dw", "failed", "of bool"),
        ("is 3", "failed", "got an int, wanted a function"),
        ("is np.ones(3)", "failed", "its name, without brackets behind it"),
        ("is lambda w, dw: w - 0.1 * dw", "failed", "it is called with 3: w, dw, lr"),
        ("is lambda *args: args[0] - args[2] * args[1]", "passed", ""),
        ("is functools.partial(lambda sign, w, dw, lr: w + sign * lr * dw, -1)", "passed", ""),
        ("is functools.partial(lambda w, dw, lr, k: w - k * lr * dw, k=1)", "passed", ""),
        ("is functools.partial(lambda w, dw, lr, k=1: None, k=1)", "open", "not written yet"),
    ],
    "tour_break": [
        ("w - dw", "passed", "broken as asked"),
        ("w - lr * dw", "failed", "nothing is broken"),
        ("w + dw", "failed", "not in the way asked for"),
        ("w - 2 * lr * dw", "failed", "not in the way asked for"),
        ("w - dw + np.nan", "failed", "not in the way asked for"),
        ("np.zeros_like(w)", "failed", "not in the way asked for"),
        ("raise ValueError('broken')", "failed", "it raised ValueError: broken"),
        ("...", "open", "not written yet"),
    ],
    # ------------------------------------------------------------------------ 01, the tape
    "mul_backward": [
        ("dy * b, dy * a", "passed", "da and db are right"),
        ("[dy * b, dy * a]", "passed", "da and db are right"),
        ("np.stack([dy * b, dy * a])", "passed", "da and db are right"),
        ("(dy * b).tolist(), (dy * a).tolist()", "passed", ""),
        ("(g for g in (dy * b, dy * a))", "failed", "it returned a generator, wanted 2 values"),
        ("dy * a, dy * b", "swapped", "da stands in the place of another"),
        ("-dy * b, dy * a", "sign", "da, or a part of it, has the wrong sign"),
        ("b, a", "dy is missing: it multiplies both", "da is wrong, and so is db"),
        ("None, None", "failed", "got     None"),
        ("dy * b", "failed", "wanted 2 values: da, db"),
        ("dy * b, dy * a, None", "failed", "it returned 3 values, wanted 2"),
        ("{'da': dy * b, 'db': dy * a}", "failed", "it returned a dict, wanted 2 values"),
        ("dy @ b, dy @ a", "failed", ""),
    ],
    "linear_backward": [
        ("dy @ W, dy.T @ x", "passed", ""),
        ("[dy @ W, dy.T @ x]", "passed", ""),
        ("np.einsum('mo,oi->mi', dy, W), np.einsum('mo,mi->oi', dy, x)", "passed", ""),
        ("dy.dot(W), x.T.dot(dy).T", "passed", ""),
        ("dy @ W, sum(np.outer(g, row) for g, row in zip(dy, x))", "passed", ""),
        ("np.float32(dy) @ np.float32(W), np.float32(dy).T @ np.float32(x)", "passed", "float32"),
        ("dW, dx = dy.T @ x, dy @ W\nreturn dW, dx", "swapped", "in another order"),
        ("dy @ W, x.T @ dy", "transposed", "dW is transposed"),
        ("dy @ W, -(dy.T @ x)", "sign", "dW, or a part of it, has the wrong sign"),
        ("dy @ W, dy.T @ x / len(x)", "no sum", "dW is not the sum over all rows"),
        ("dx = dy @ W\ndW = dy.T @ x", "failed", "is the return missing?"),
        ("dy @ W, None", "failed", "got     None"),
        ("None, None", "failed", "dx is wrong, and so is dW"),
    ],
    "linear_break": [
        ("dy @ W, dy.T @ x / len(x)", "passed", "caught and named: no sum"),
        ("dy @ W, np.outer(dy[0], x[0])", "passed", "no sum"),
        ("dy @ W, np.outer(dy[2], x[2])", "passed", "no sum"),
        ("dy @ W, dy[:-1].T @ x[:-1]", "passed", "no sum"),
        ("dy @ W, dy[::2].T @ x[::2]", "passed", "no sum"),
        ("dy @ W, dy[:, :, None] * x[:, None, :]", "passed", "no sum"),
        ("dy @ W, np.einsum('mo,mi->oim', dy, x)", "passed", "no sum"),
        ("dy @ W, [np.outer(g, row) for g, row in zip(dy, x)]", "passed", "no sum"),
        ("dy @ W, (dy[:, :, None] * x[:, None, :]).max(0)", "passed", "no sum"),
        ("dy @ W, np.outer(dy.mean(0), x.mean(0))", "passed", "no sum"),
        ("dy @ W, np.outer(dy.sum(0), x.sum(0))", "passed", "no sum"),
        ("for g, row in zip(dy, x):\n    dW = np.outer(g, row)\nreturn dy @ W, dW", "passed", ""),
        ("[dy @ W, dy.T @ x / len(x)]", "passed", "no sum"),
        ("dy @ W, dy.T @ x", "failed", "nothing is broken"),
        ("dy @ W, x.T @ dy / len(x)", "failed", "not by the slip asked for"),
        ("dy @ W, 2 * dy.T @ x", "failed", "not by the slip asked for"),
        ("dy @ W / len(x), dy.T @ x / len(x)", "failed",
         "not only by the slip asked for, no sum: see dx"),
        ("dy @ W, np.zeros_like(W)", "failed", "not by the slip asked for"),
        ("dy @ W, np.full_like(W, np.nan)", "failed", "not by the slip asked for"),
        ("dy @ W, None", "failed", "not by the slip asked for"),
        ("None, None", "failed", "not by the slip asked for"),
        ("dy @ W, dy @ x", "failed", "it raised ValueError"),
    ],
    # ------------------------------------------------------------------------ 02, a Llama
    "llama_norm": [
        ("g * x / np.sqrt((x**2).mean(1, keepdims=True) + eps)", "passed", "y is right"),
        ("g * x * ((x * x).mean(-1)[:, None] + eps) ** -0.5", "passed", ""),
        ("x / np.sqrt(np.sum(x**2, 1, keepdims=True) / x.shape[1] + eps) * g", "passed", ""),
        ("np.array([g * r / math.sqrt(r @ r / len(r) + eps) for r in x])", "passed", ""),
        ("[list(g * r / math.sqrt(r @ r / len(r) + eps)) for r in x]", "passed", ""),
        ("g * x / (np.sqrt((x**2).mean(1, keepdims=True)) + eps)", "epsilon", "in another place"),
        ("g * x / np.sqrt((x**2).mean(1, keepdims=True))", "epsilon", "eps is missing in y"),
        ("g * x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)", "epsilon", ""),
        ("g * x / np.sqrt((x**2).mean(1, keepdims=True) + eps**2)", "epsilon", ""),
        ("x / np.sqrt((x**2).mean(1, keepdims=True) + eps)", "failed", "y is wrong"),
        ("g * x / np.sqrt((x**2).sum(1, keepdims=True) + eps)",
         "it has the mean of x², not the sum", "y is wrong"),
        ("g * x / np.sqrt((x**2).mean() + eps)",
         "the mean runs over all numbers: it is of each row", "y is wrong"),
        ("g * x / np.sqrt((x**2).mean(1) + eps)", "failed", "it raised ValueError"),
        ("x = x - x.mean(1, keepdims=True)\n"
         "return g * x / np.sqrt((x**2).mean(1, keepdims=True) + eps)",
         "no mean is subtracted in RMSNorm", "y is wrong"),
        ("g * x / ((x**2).mean(1, keepdims=True) + eps)",
         "the square root is missing", "y is wrong"),
    ],
    "llama_attention": [
        ("softmax(np.where(np.tri(len(q)), q @ k.T / np.sqrt(q.shape[1]), -np.inf)) @ v", "passed",
         "o is right"),
        ("softmax(q @ k.T / math.sqrt(q.shape[1]) - 1e9 * np.triu(np.ones((len(q),) * 2), 1)) @ v",
         "passed", ""),
        ("T, D = q.shape\no = np.zeros((T, D))\nfor t in range(T):\n"
         "    w = np.exp(k[: t + 1] @ q[t] / D**0.5)\n"
         "    o[t] = w @ v[: t + 1] / w.sum()\nreturn o",
         "passed", ""),
        ("softmax(q @ k.T / np.sqrt(q.shape[1])) @ v",
         "a place sees those after it: the mask is missing", "o is wrong"),
        ("softmax(np.where(np.tri(len(q)), q @ k.T, -np.inf)) @ v",
         "the scores are q kᵀ/√D: the factor 1/√D is missing", "o is wrong"),
        ("softmax(np.where(np.tri(len(q)), q @ k.T / q.shape[1], -np.inf)) @ v", "failed", ""),
        ("softmax(np.where(np.tri(len(q)).T, q @ k.T / np.sqrt(q.shape[1]), -np.inf)) @ v",
         "the mask hides what came before: it has to hide what comes later", "o is wrong"),
        ("softmax(np.tri(len(q)) * q @ k.T / np.sqrt(q.shape[1])) @ v", "failed", ""),
        ("scores = np.where(np.tri(len(q), k=-1), q @ k.T / np.sqrt(q.shape[1]), -1e9)\n"
         "return softmax(scores) @ v", "failed", "o is wrong"),
    ],
    "llama_break": [
        ("softmax(q @ k.T / np.sqrt(q.shape[1])) @ v", "passed", "caught and named"),
        ("softmax(q @ k.T) @ v", "failed", "not in the way asked for"),
    ],
    # ------------------------------------------------------------------------ 03, low rank
    "low_rank_truncate": [
        ("U, S, V = np.linalg.svd(D)\nreturn U[:, :r] @ np.diag(S[:r]) @ V[:r]", "passed", ""),
        ("U, S, V = np.linalg.svd(D, False)\nS[r:] = 0\nreturn (U * S) @ V", "passed", ""),
        ("w, V = np.linalg.eigh(D.T @ D)\nV = V[:, -r:]\nreturn D @ V @ V.T", "passed", ""),
        ("U, S, V = np.linalg.svd(D, False)\nreturn (U * S) @ V", "failed", "D_r is wrong"),
        ("U, S, V = np.linalg.svd(D, False)\nreturn U[:, :r] @ V[:r]", "failed", "D_r is wrong"),
        ("D[:, :r]", "failed", "shape"),
        ("U, S, V = np.linalg.svd(D, False)\nreturn (U[:, :r] * S[:r]) @ V[:, :r].T",
         "the v_k are the rows of Vt, not its columns", ""),
    ],
    "low_rank_break": [
        ("U, S, V = np.linalg.svd(D, False)\nS[:-r] = 0\nreturn (U * S) @ V", "passed", ""),
        ("U, S, V = np.linalg.svd(D, False)\nreturn (U[:, r:] * S[r:]) @ V[r:]", "failed", "not"),
        ("np.zeros_like(D)", "failed", "not in the way asked for"),
    ],
    # ------------------------------------------------------------------------ 04, LoRA
    "lora_forward": [
        ("x @ W.T + s * (x @ A.T) @ B.T", "passed", ""),
        ("x @ (W + s * B @ A).T", "passed", ""),
        ("np.einsum('mi,oi->mo', x, W) + s * np.einsum('mi,ri,or->mo', x, A, B)", "passed", ""),
        ("y = W @ x.T + s * B @ (A @ x.T)\nreturn y.T", "passed", ""),
        ("[W @ row + s * B @ (A @ row) for row in x]", "passed", ""),
        ("x @ W.T - s * (x @ A.T) @ B.T", "sign", "y, or a part of it, has the wrong sign"),
        ("x @ W.T + (x @ A.T) @ B.T", "scale missing", "was left out of y"),
        ("x @ W.T + (x @ A.T) @ B.T / s", "failed", "y is wrong"),
        ("x @ W.T + 16 * (x @ A.T) @ B.T", "failed", "y is wrong"),  # a scale seen before
        ("x @ W.T + s * (x @ A.T) @ B.T, (x,)", "failed", "it returned 2 values, wanted 1: y"),
        ("x @ W.T + s * x @ A @ B", "failed", ""),
        ("y = x @ W.T + s * (x @ A.T) @ B.T", "failed", "is the return missing?"),
        ("return x.mean()", "failed", "shape  expected"),
    ],
    "lora_backward": [
        ("lora(dy, x, W, s, A, B)", "passed", "dx, dA and dB are right, in float64"),
        ("list(lora(dy, x, W, s, A, B))", "passed", ""),
        ("lora(*(np.float32(a) for a in (dy, x, W, s, A, B)))", "passed", "float32"),
        ("tuple(g.astype(np.float32) for g in lora(dy, x, W, s, A, B))", "passed", "float32"),
        ("z = x @ A.T\ndz = s * dy @ B\nreturn dy @ (W + s * B @ A), dz.T @ x, s * dy.T @ z",
         "passed", ""),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dB, dA", "swapped", "another order"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dA, dB, dx", "swapped", "another order"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, -dA, dB", "sign", "dA, or a part"),
        ("dx, dA, dB = lora(dy, x, W, -s, A, B)\nreturn dx, dA, dB", "sign", "dx, or a part"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA.T, dB.T", "transposed", ""),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA.astype(np.float16), dB", "dtype", ""),
        ("lora(dy, x, W, 1, A, B)", "scale missing", "dx is wrong, and so are dA and dB"),
        ("lora(dy, x, W, s, A, B)[:2]", "failed", "it returned 2 values, wanted 3: dx, dA, dB"),
        ("None, None, None", "failed", "dx is wrong, and so are dA and dB"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, None, None", "failed", "got     None"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, None, None, dA, dB", "failed",
         "it returned 5 values, wanted 3"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA * 0, dB", "failed", "dA is wrong"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, 3 * dA, dB", "failed",
         "dA is 3 times the right one"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nfor a in (x, A, B):\n    a[...] = 0\n"
         "return dx, dA, dB", "failed", "it wrote into its argument x"),
        ("up_the_stack(true_of)", "failed", "it raised LookupError: nothing found"),
        ("up_the_stack(lambda v: tuple(v.values()) if isinstance(v, dict) and 'dA' in v else None)",
         "failed", "nothing found"),
        ("for f in inspect.stack():\n    for v in f.frame.f_locals.values():\n"
         "        if hasattr(v, 'reference'):\n"
         "            return tuple(v.reference(dy, x, W, s, A, B).values())", "failed", ""),
    ],
    "lora_merge": [
        ("W + s * B @ A", "passed", ""),
        ("is Scaled()", "passed", ""),
        ("is Scaled().merge", "passed", ""),
        ("is functools.partial(lambda k, W, s, A, B: W + k * s * B @ A, 1)", "passed", ""),
        ("W + s * np.einsum('or,ri->oi', B, A)", "passed", ""),
        ("W - s * B @ A", "sign", ""),
        ("(1 + s) * W + B @ A", "failed", "W' is wrong"),
        ("s * (W + B @ A)", "failed", "W' is wrong"),
        ("W += s * B @ A\nreturn W", "failed", "it wrote into its argument W"),
    ],
    "lora_break": [
        ("lora(dy, x, W, 1, A, B)", "passed", "caught and named: scale missing"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA / s, dB", "passed", ""),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA, dB / s", "passed", ""),
        ("list(lora(dy, x, W, 1, A, B))", "passed", ""),
        ("lora(dy, x, W, s, A, B)", "failed", "nothing is broken"),
        ("dx, dA, dB = lora(dy, x, W, 1, A, B)\nreturn dx, dA * np.nan, dB", "failed", "see dA"),
        ("dx, dA, dB = lora(dy, x, W, 1, A, B)\nreturn dx, dA, dB * 0", "failed", "see dB"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, 0 * dA, 0 * dB", "failed", "not by"),
        ("lora(dy, x, W, s * s, A, B)", "failed", "not by the slip asked for"),
        ("dx, dA, dB = lora(dy, x, W, 1, A, B)\nreturn dx, dA.T, dB", "failed", "not only by"),
        ("None, None, None", "failed", "not by the slip asked for"),
        ("1 / 0", "failed", "it raised ZeroDivisionError"),
    ],
    "lora_blind": [
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, 3 * dA, dB", "passed", "unseen"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, 0 * dA, dB", "passed", "unseen"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA + B.sum(), dB", "passed", "unseen"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn [dx, -dA, dB]", "passed", "unseen"),
        ("lora(dy, x, W, s, A, B)", "failed", "nothing is broken"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx + B.sum(), 3 * dA, dB", "failed",
         "dx must stay right: only dA is to be wrong"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dy @ W, 3 * dA, dB", "failed",
         "dx must stay right"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx + B.sum(), dA, dB", "failed",
         "dx must stay right"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA, 2 * dB", "failed",
         "it is seen at the start already: dB is wrong"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA + 1, dB", "failed",
         "it is seen at the start already: dA is wrong"),
        ("if B.any():\n    raise ValueError('no')\nreturn lora(dy, x, W, s, A, B)", "failed",
         "it raised ValueError: no"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA * (np.nan if B.any() else 1), dB",
         "failed", "dA must keep its shape and be finite"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, dA.T if B.any() else dA, dB",
         "failed", "dA must keep its shape and be finite"),
        ("dx, dA, dB = lora(dy, x, W, s, A, B)\nreturn dx, None if B.any() else dA, dB",
         "failed", "dA must keep its shape and be finite"),
    ],
    # ------------------------------------------------------------------------ 05, LoRA-FA
    "lora_fa_backward": [
        ("dy @ W + s * (dy @ B) @ A, None, s * dy.T @ z", "passed", "dx and dB are right"),
        ("[dy @ (W + s * B @ A), None, s * (z.T @ dy).T]", "passed", ""),
        ("None, None, None", "failed", "dx is wrong, and so is dB"),
        ("dx, dB = dy @ W + s * (dy @ B) @ A, s * dy.T @ z\nreturn dx, dB, None", "swapped", ""),
        ("dx, dB = dy @ W + s * (dy @ B) @ A, s * dy.T @ z\nreturn dx, np.zeros_like(A), dB",
         "frozen moved", "None: dA is not needed"),
        ("dy @ W + s * (dy @ B) @ A, s * dy.T @ z", "failed", "it returned 2 values, wanted 3"),
        ("dy @ W - s * (dy @ B) @ A, None, s * dy.T @ z", "sign", "dx, or a part"),
    ],
    "lora_fa_step": [
        ("A, B - lr * dB", "passed", ""),
        ("[A.copy(), B - lr * dB]", "passed", ""),
        ("Step(A, B - lr * dB)", "passed", ""),
        ("A, B + lr * dB", "sign", "B, or a part of it, has the wrong sign"),
        ("A - lr * dA, B - lr * dB", "frozen moved", "A is frozen"),
        ("B - lr * dB, A", "swapped", "another order"),
        ("None, B - lr * dB", "failed", "A is wrong (B is right)"),
        ("A, B - dB", "failed", "B is wrong (A is right)"),
        ("A * (1 - lr), B - lr * dB", "frozen moved", "A is frozen"),
        ("B -= lr * dB\nreturn A, B", "failed", "it wrote into its argument B"),
    ],
    "lora_fa_break": [
        ("dy @ W, None, s * dy.T @ z", "passed", "caught and named: path missing"),
        ("s * (dy @ B) @ A, None, s * dy.T @ z", "failed", "not in the way asked for"),
        ("dy @ W, None, dy.T @ z", "failed", "not in the way asked for: see dB"),
        ("dy @ W, None, None", "failed", "not in the way asked for"),
        ("np.nan * (dy @ W), None, s * dy.T @ z", "failed", "not in the way asked for"),
    ],
    # ------------------------------------------------------------------------ 06, VeRA
    "vera_forward": [
        ("x @ W.T + b * ((d * (x @ A.T)) @ B.T)", "passed", ""),
        ("x @ (W + np.diag(b) @ B @ np.diag(d) @ A).T", "passed", ""),
        ("x @ W.T + (x @ A.T * d) @ (b[:, None] * B).T", "passed", ""),
        ("x @ W.T + (x @ A.T) @ B.T", "failed", "y is wrong"),
        ("x @ W.T + (d * (x @ A.T)) @ B.T", "failed", "y is wrong"),
        ("x @ W.T - b * ((d * (x @ A.T)) @ B.T)", "sign", ""),
    ],
    "vera_backward": [
        ("vera(dy, u, W, A, B, b, d)", "passed", "dx, db and dd are right"),
        ("dx, db, dd = vera(dy, u, W, A, B, b, d)\nreturn [dx, db, dd]", "passed", ""),
        ("dx, db, dd = vera(dy, u, W, A, B, b, d)\nreturn dx, db.tolist(), list(dd)", "passed", ""),
        ("dx, db, dd = vera(dy, u, W, A, B, b, d)\nreturn dx, dd, db", "swapped", ""),
        ("dx, db, dd = vera(dy, u, W, A, B, b, d)\nreturn dx, db, dd[None]", "failed", "shape"),
        ("dx, db, dd = vera(dy, u, W, A, B, b, d)\nreturn dx, db, -dd", "sign", "dd, or a part"),
    ],
    "vera_merge": [
        ("W + (b[:, None] * B * d) @ A", "passed", ""),
        ("W + np.diag(b) @ B @ np.diag(d) @ A", "passed", ""),
        ("W + b[:, None] * (B @ (d[:, None] * A))", "passed", ""),
        ("W + np.diag(b) @ B @ A", "d is missing: it scales the columns of B", "W' is wrong"),
    ],
    "vera_break": [
        ("x @ W.T + (b * d * (x @ A.T)) @ B.T", "passed", "b on the wrong side"),
        ("x @ (W + B @ np.diag(b * d) @ A).T", "passed", "b on the wrong side"),
        ("x @ W.T + b * ((d * (x @ A.T)) @ B.T)", "failed", "nothing is broken"),
        ("x @ W.T + (d * (x @ A.T)) @ B.T", "failed", "not by the slip asked for"),
        ("np.full((len(x), len(W)), np.nan)", "failed", "not by the slip asked for"),
    ],
    # ------------------------------------------------------------------------ 07, Delta-LoRA
    "delta_lora_step": [
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + ratio * s * (B1 @ A1 - B @ A), A1, B1",
         "passed", "W', A' and B' are right"),
        ("E, F = -lr * dA, -lr * dB\n"
         "return W + ratio * s * (F @ A + B @ E + F @ E), A + E, B + F", "passed", ""),
        ("A1, B1 = A + lr * dA, B + lr * dB\nreturn W + ratio * s * (B1 @ A1 - B @ A), A1, B1",
         "sign", "A', or a part of it, has the wrong sign"),
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W - ratio * s * (B1 @ A1 - B @ A), A1, B1",
         "sign", "W', or a part of it, has the wrong sign"),
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + s * (B1 @ A1 - B @ A), A1, B1", "failed",
         "W' is wrong (A' and B' are right)"),
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + ratio * s * (B1 @ A1 - B @ A), B1, A1",
         "swapped", ""),
        ("A -= lr * dA\nB -= lr * dB\nreturn W, A, B", "failed", "it wrote into its argument A"),
    ],
    "delta_lora_break": [
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + ratio * s * (B1 - B) @ (A1 - A), A1, B1",
         "passed", "caught and named"),
        ("W + ratio * s * lr**2 * dB @ dA, A - lr * dA, B - lr * dB", "passed", ""),
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + ratio * s * B1 @ A1, A1, B1", "failed",
         "not in the way asked for"),
        ("W - ratio * s * lr * (dB @ A + B @ dA), A - lr * dA, B - lr * dB", "failed",
         "not in the way asked for"),
        ("W - ratio * s * lr * dB @ dA, A - lr * dA, B - lr * dB", "failed", "not in the way"),
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + ratio * s * (B1 - B) @ (A1 - A), A, B",
         "failed", "not in the way asked for"),
        ("A1, B1 = A - lr * dA, B - lr * dB\nreturn W + ratio * s * (B1 @ A1 - B @ A), A1, B1",
         "failed", "nothing is broken"),
    ],
    # ------------------------------------------------------------------------ 08, LoRA+
    "lora_plus_step": [
        ("A - lr * dA, B - ratio * lr * dB", "passed", ""),
        ("[A - lr * dA, B - (lr * ratio) * dB]", "passed", ""),
        ("A - lr * dA, B - lr * dB", "ratio missing", "the ratio was left out"),
        ("A - ratio * lr * dA, B - lr * dB", "ratio on A", "the ratio went to A"),
        ("A - ratio * lr * dA, B - ratio * lr * dB", "ratio on A", "the ratio went to A"),
        ("A - lr * dA, B - lr / ratio * dB",
         "B's rate is ratio times lr, not lr / ratio", "B' is wrong (A' is right)"),
        ("A - lr * dA, B - 16 * lr * dB", "failed", "B' is wrong (A' is right)"),
        ("A + lr * dA, B + ratio * lr * dB", "sign", "A', or a part of it, has the wrong sign"),
        ("A - lr * dA, B - (lr + ratio) * dB", "failed", "B' is wrong"),
        ("B - ratio * lr * dB, A - lr * dA", "swapped", ""),
    ],
    "lora_plus_break": [
        ("A - ratio * lr * dA, B - lr * dB", "passed", "caught and named: ratio on A"),
        ("A - lr * dA, B - lr * dB", "failed", "not in the way asked for"),
        ("A - lr / ratio * dA, B - lr * dB", "failed", "not in the way asked for"),
        ("A - ratio * lr * dA, B * np.nan", "failed", "not in the way asked for"),
    ],
    # ------------------------------------------------------------------------ 09, kernels
    "kernel_roof": [
        ("np.minimum(peak, bandwidth * intensity)", "passed", ""),
        ("min(peak, bandwidth * intensity)", "passed", ""),
        ("peak if intensity > peak / bandwidth else bandwidth * intensity", "passed", ""),
        ("np.array(min(peak, bandwidth * intensity))", "passed", ""),
        ("max(peak, bandwidth * intensity)", "the lower of the two is the roof", "rate is wrong"),
        ("bandwidth * intensity", "the lower of the two is the roof", "rate is wrong"),
        ("min(peak, bandwidth / intensity)", "failed", "rate is wrong"),
        ("peak", "the lower of the two is the roof", "rate is wrong"),
    ],
    "kernel_tile": [
        ("y = np.zeros((a.shape[1], b.shape[1]))\nfor k in range(len(a)):\n"
         "    y += np.outer(a[k], b[k])\nreturn y", "passed", ""),
        ("sum(np.outer(p, q) for p, q in zip(a, b))", "passed", ""),
        ("K, R = a.shape\nC = b.shape[1]\n"
         "return [[sum(a[k, i] * b[k, j] for k in range(K)) for j in range(C)] for i in range(R)]",
         "passed", ""),
        ("np.tensordot(a, b, (0, 0))", "passed", ""),
        ("y = np.zeros((a.shape[1], b.shape[1]), np.float32)\nfor k in range(len(a)):\n"
         "    y += np.outer(a[k], b[k]).astype(np.float32)\nreturn y", "passed", "float32"),
        ("y = np.zeros((a.shape[1], b.shape[1]), int)\nfor k in range(len(a)):\n"
         "    y += np.outer(a[k], b[k])\nreturn y", "failed", "it raised"),
        ("y = np.empty((a.shape[1], b.shape[1]), int)\ny[:] = a.T @ b\nreturn y", "dtype", ""),
        ("a @ b.T", "failed", ""),
        ("np.outer(a[-1], b[-1])", "no sum", "y is not the sum over all steps k"),
    ],
    "kernel_break": [
        ("np.outer(a[-1], b[-1])", "passed", "caught and named: no sum"),
        ("for p, q in zip(a, b):\n    y = np.outer(p, q)\nreturn y", "passed", ""),
        ("y = np.zeros((a.shape[1], b.shape[1]))\nfor k in range(len(a)):\n"
         "    y[:] = np.outer(a[k], b[k])\nreturn y", "passed", ""),
        ("a.T @ b / len(a)", "failed", "not in the way asked for"),
        ("np.outer(a[0], b[0])", "failed", "not in the way asked for"),
        ("a.T @ b", "failed", "nothing is broken"),
        ("0 * (a.T @ b)", "failed", "not in the way asked for"),
    ],
    "kernel_ratio": [
        ("np.median(theirs / mine)", "passed", ""),
        ("float(np.median([t / m for t, m in zip(theirs, mine)]))", "passed", ""),
        ("sorted(theirs / mine)[len(mine) // 2]", "passed", ""),
        ("np.median(theirs) / np.median(mine)",
         "the ratio of the medians: divide within each round first", "ratio is wrong"),
        ("np.mean(theirs / mine)",
         "the mean of the ratios: one odd round moves it, but not the median", "ratio is wrong"),
        ("np.median(mine / theirs)",
         "the ratio is upside down: half the seconds is twice as fast", "ratio is wrong"),
        ("theirs.sum() / mine.sum()", "failed", "ratio is wrong"),
        ("theirs.min() / mine.min()", "failed", "ratio is wrong"),
        ("theirs / mine", "failed", "shape"),
    ],
    # ------------------------------------------------------------------------ 10, the comparison
    "fair_choice": [
        ("rates[np.argmax(validation)]", "passed", ""),
        ("max(zip(validation, rates))[1]", "passed", ""),
        ("[rates[validation.argmax()]]", "passed", ""),
        ("np.array(rates)[validation == validation.max()]", "passed", ""),
        ("np.argmax(validation)",
         "that is the place of the best score: return the rate that stands there", "rate is wrong"),
        ("validation.max()",
         "that is the best score itself: return the rate that got it", "rate is wrong"),
        ("rates[np.argmax(test)]",
         "the test words had a say: only validation may choose", "rate is wrong"),
        ("rates[np.argmax(validation + test)]",
         "the test words had a say: only validation may choose", ""),
        ("rates[0]", "failed", "rate is wrong"),
    ],
    "fair_break": [
        ("rates[np.argmax(test)]", "passed", "caught and named"),
        ("rates[np.argmin(test)]", "failed", "not in the way asked for"),
    ],
    # ------------------------------------------------------------------------ 11, a language model
    "real_best": [
        ("among[logits[:, among].argmax(1)]", "passed", ""),
        ("[max(among, key=lambda t: row[t]) for row in logits]", "passed", ""),
        ("tuple(max(among, key=lambda t: row[t]) for row in logits)", "passed", ""),
        ("only = np.full_like(logits, -np.inf)\nonly[:, among] = logits[:, among]\n"
         "return only.argmax(1)", "passed", ""),
        ("logits[:, among].argmax(1)",
         "that is a place in `among`: return the token that stands there", "token is wrong"),
        ("logits.argmax(1)", "all tokens competed, not only those in `among`", "token is wrong"),
        ("np.sort(among)[logits[:, among].argmax(1)]", "failed", "token is wrong"),
        ("logits[:, among].max(1)", "failed", "token is wrong"),
    ],
    "real_break": [
        ("logits.argmax(1)", "passed", "caught and named"),
        ("[list(row).index(max(row)) for row in logits]", "passed", "caught and named"),
        ("among[logits[:, among].argmax(1)]", "failed", "nothing is broken"),
        ("logits.argmin(1)", "failed", "not in the way asked for"),
        ("logits.argmax()", "failed", "not in the way asked for"),
    ],
    "real_serve": [
        ("x @ W.T + s * np.einsum('mi,mri,mor->mo', x, A[which], B[which])", "passed", ""),
        ("[W @ v + s * B[n] @ (A[n] @ v) for v, n in zip(x, which)]", "passed", ""),
        ("y = x @ W.T\nfor n in set(which):\n    m = which == n\n"
         "    y[m] += s * x[m] @ A[n].T @ B[n].T\nreturn y", "passed", ""),
        ("x @ W.T + s * x @ A[0].T @ B[0].T",
         "all rows got one row's adapter: row m has which[m]", "y is wrong"),
        ("x @ W.T + s * x @ A.mean(0).T @ B.mean(0).T", "failed", "y is wrong"),
    ],
}  # fmt: skip


def rows():
    """(exercise, answer's source, verdict, words) for every answer."""
    return [(name, *row) for name, cell in ANSWERS.items() for row in cell]


def answer(name, source):
    """An answer as a student would give it to the check."""
    if EXERCISES[name].kind == "predict":
        return eval(source, dict(NAMES))
    if source.startswith("is "):
        return eval(source[3:], dict(NAMES))
    return function(name, source)


def function(name, source):
    """The function of an exercise with this body, or this value."""
    arguments = ", ".join(EXERCISES[name].drawn(0)[0].args)
    lines = ("\n", "return", "pass", "raise")
    is_body = "\n" in source or source.startswith(lines) or is_statement(source)
    body = source if is_body else f"return {source}"
    names = dict(NAMES)
    exec(f"def answer({arguments}):\n{textwrap.indent(body, '    ')}", names)
    return names["answer"]


def is_statement(source):
    """Is it no expression, and so a function's body?"""
    try:
        compile(source, "answer", "eval")
    except SyntaxError:
        return True
    return False
