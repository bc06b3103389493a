"""Notebook 02b, the Llama's backward: each op of a layer."""

import math

import numpy as np

from minilora import ops
from minilora.ops.swiglu import sigmoid

from ..slips import Case
from .exercise import blank, broken, draw, number, predict, rows, widths


def softmax(s):
    """Softmax of each row."""
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ---- the right outputs


def loss_backward(z, targets):
    """dz of the mean cross-entropy of softmax(z)."""
    return {"dz": ops.cross_entropy.forward(z, targets)[1][0] / len(z)}


def softmax_backward(dp, p):
    """ds of p = softmax(s)."""
    return {"ds": p * (dp - (p * dp).sum(-1, keepdims=True))}


def rmsnorm_backward(dy, x, g, eps):
    """dx, dg."""
    return dict(zip(("dx", "dg"), ops.rmsnorm.backward(dy, ops.rmsnorm.forward(x, g, eps)[1])))


def rope_backward(dy, cos, sin):
    """dx, for one head.   dy (T, D), cos, sin (T, D/2)."""
    return {"dx": ops.rope.backward(dy[:, None], (cos, sin))[0][:, 0]}


def swiglu_backward(dh, gate, up):
    """dgate, dup."""
    return dict(zip(("dgate", "dup"), ops.swiglu.backward(dh, (gate, up))))


def attention_backward(do, q, k, v):
    """dq, dk, dv of causal attention, one head.   do, q, k, v (T, D)."""
    spans = np.array([[0, len(q)] * 2])
    _, cache = ops.attention.forward(q[:, None], k[:, None], v[:, None], spans)
    grads = ops.attention.backward(do[:, None], cache)
    return {name: grad[:, 0] for name, grad in zip(("dq", "dk", "dv"), grads)}


# ---- cases, with the slips of each exercise


def shapes(rng):
    """Two shapes of matrices, with an even number of rows and an odd number of columns."""
    return [(rows(rng), width) for width in widths(rng, 2)]


def loss_cases(rng):
    """For dz = f(z, targets)."""

    def everywhere(z, targets):
        p = softmax(z)
        p[:, targets] -= 1
        return [{"dz": p / len(z)}]

    slips = {
        "the 1 at the target was not subtracted": lambda z, targets: [{"dz": softmax(z) / len(z)}],
        "the loss is a mean over the rows: divide by their number": lambda z, targets: [
            {"dz": loss_backward(z, targets)["dz"] * len(z)}
        ],
        "1 was subtracted at the targets of all rows: a row has one of its own": everywhere,
        "the mean is over the rows: divide by their number, not by all numbers": (
            lambda z, targets: [{"dz": loss_backward(z, targets)["dz"] / z.shape[1]}]
        ),
        "the softmax is of each row: its probabilities add up to 1": lambda z, targets: [
            {"dz": (np.exp(z) / np.exp(z).sum(axis) - np.eye(z.shape[1])[targets]) / len(z)}
            for axis in (0, None)
        ],
    }
    return [
        Case(
            {**draw(rng, z=shape), "targets": rng.integers(shape[1], size=shape[0])},
            loss_backward,
            slips=slips,
        )
        for shape in shapes(rng)
    ]


NO_ROW_SUM = "the sum over the row is missing: every score of a row is in every p"
OTHER_SUM = "the sum runs over the columns, or over all: it is of each row"


def softmax_cases(rng):
    """For ds = f(dp, p)."""
    slips = {
        NO_ROW_SUM: lambda dp, p: [{"ds": p * dp}],
        "each p was taken to depend on its own score alone": lambda dp, p: [
            {"ds": p * (1 - p) * dp}
        ],
        OTHER_SUM: lambda dp, p: [{"ds": p * (dp - (p * dp).sum(axis))} for axis in (0, None)],
        "in the sum of a row stands p dp, not dp": lambda dp, p: [
            {"ds": p * (dp - dp.sum(1, keepdims=True))}
        ],
    }
    return [
        Case({**draw(rng, dp=shape), "p": softmax(rng.standard_normal(shape))}, softmax_backward,
             slips=slips)
        for shape in shapes(rng)
    ]  # fmt: skip


def rho_backward(dy, x, g):
    """dρ of y = g · xρ, a number a row.   dy, x (M, C), g (C,) -> (M, 1)."""
    return {"dρ": (dy * g * x).sum(1, keepdims=True)}


def rho_cases(rng):
    """For dρ = f(dy, x, g)."""
    slips = {
        "y = g · xρ: what goes back to ρ passes through g": lambda dy, x, g: [
            rho_backward(dy, x, np.ones_like(g))
        ],
        "ρ is a factor of every number of its row: its gradient is a sum over the row": (
            lambda dy, x, g: [
                {"dρ": dy * g * x},
                {"dρ": (dy * g * x).mean(1, keepdims=True)},
            ]
        ),
        "the sum is of each row: one number a row": lambda dy, x, g: [
            {"dρ": (dy * g * x).sum(axis)} for axis in (0, None)
        ],
        "a number a row stands as a column, (M, 1): keepdims=True": lambda dy, x, g: [
            {"dρ": (dy * g * x).sum(1)}
        ],
        "n = xρ: ρ gets dn · x; the x is missing": lambda dy, x, g: [
            {"dρ": (dy * g).sum(1, keepdims=True)}
        ],
    }
    return [Case(draw(rng, dy=n, x=n, g=n[1:]), rho_backward, slips=slips) for n in shapes(rng)]


NO_RHO = "the path through ρ is missing: every x of a row is in ρ"


def eps_elsewhere(dy, x, g, eps):
    """dx and dg with eps left out, beside the root, or of another size; ρ³ or ρ²/√mean(x²)."""
    w, root = dy * g, np.sqrt((x * x).mean(1, keepdims=True))
    beside, within = 1 / (root + eps), 1 / np.sqrt(root**2 + eps)
    made = [(rho, rho**3) for rho in (1 / root, beside, 1 / np.sqrt(root**2 + 1e-5))]
    made += [(beside, beside**2 / root), (within, root**-3), (1 / root, within**3)]
    dx = [rho * w - x * slope * (w * x).mean(1, keepdims=True) for rho, slope in made]
    return [{"dx": a} for a in dx] + [{"dg": (dy * x * rho).sum(0)} for rho, _ in made]


def rmsnorm_cases(rng):
    """For dx, dg = f(dy, x, g, eps): eps is large, so that its place matters."""

    def parts(dy, x, g, eps):
        rho = 1 / np.sqrt((x * x).mean(1, keepdims=True) + eps)
        w = dy * g
        return rho, w, x * rho**3 * (w * x).mean(1, keepdims=True)

    def sign(dy, x, g, eps):
        rho, w, second = parts(dy, x, g, eps)
        return [{"dx": rho * w + second}]

    def summed(dy, x, g, eps):
        rho, w, second = parts(dy, x, g, eps)
        return [{"dx": rho * w - x.shape[1] * second}]

    def no_gain(dy, x, g, eps):
        return [{"dx": rmsnorm_backward(dy, x, np.ones_like(g), eps)["dx"]}]

    def no_gain_in_rho(dy, x, g, eps):
        rho, w, _ = parts(dy, x, g, eps)
        return [{"dx": rho * w - parts(dy, x, np.ones_like(g), eps)[2]}]

    slips = {
        NO_RHO: lambda dy, x, g, eps: [{"dx": math.prod(parts(dy, x, g, eps)[:2])}],
        "ρ falls where x grows: its term is subtracted": sign,
        "the term of ρ has the mean over the row, not the sum": summed,
        "y = g · xρ: dx passes through g": no_gain,
        "the term of ρ passes through g as well: in its mean stands dy g, not dy": no_gain_in_rho,
        "dg multiplies dy by xρ, not by x": lambda dy, x, g, eps: [{"dg": (dy * x).sum(0)}],
        "epsilon": eps_elsewhere,
    }
    return [
        Case({**draw(rng, dy=n, x=n, g=n[1:]), "eps": number(rng, 0.05, 0.5)}, rmsnorm_backward,
             rows=("dy", "x"), summed=("dg",), slips=slips)
        for n in shapes(rng)
    ]  # fmt: skip


FORWARD_AGAIN = "it was turned forward once more: backward turns back, sin with the other sign"
NEIGHBOURS = "two neighbours are no pair here: a pair has one number of each half of the row"


def neighbours_turned(dy, cos, sin):
    """dx where numbers 0 and 1, 2 and 3, … are the pairs, in their places or half by half."""
    halves = np.concatenate([dy[:, ::2], dy[:, 1::2]], axis=1)
    turned = rope_backward(halves, cos, sin)["dx"]
    back = np.stack(np.split(turned, 2, axis=1), axis=2).reshape(dy.shape)
    return [{"dx": back}, {"dx": turned}]


def rope_cases(rng):
    """For dx = f(dy, cos, sin)."""
    cases = []
    for D, T in shapes(rng):
        angle = np.outer(np.arange(1, T + 1), 0.7 ** np.arange(D // 2))
        cases.append(
            Case(
                {**draw(rng, dy=(T, D)), "cos": np.cos(angle), "sin": np.sin(angle)},
                rope_backward,
                slips={
                    FORWARD_AGAIN: lambda dy, cos, sin: [rope_backward(dy, cos, -sin)],
                    NEIGHBOURS: neighbours_turned,
                },
            )
        )
    return cases


def swiglu_cases(rng):
    """For dgate, dup = f(dh, gate, up)."""

    def gate_slip(change):
        return lambda dh, gate, up: [{"dgate": dh * up * change(gate, sigmoid(gate))}]

    slips = {
        "silu'(z) is not σ(z): z stands before σ(z), and inside it": gate_slip(lambda z, p: p),
        "the first term of the product rule is missing: σ(z) itself": gate_slip(
            lambda z, p: z * p * (1 - p)
        ),
        "silu'(z) has z σ(z) (1 - σ(z)): the z is missing": gate_slip(lambda z, p: p + p * (1 - p)),
        "σ (1 - σ) is σ': silu(z) = z σ(z) is a product": gate_slip(lambda z, p: p * (1 - p)),
        "dup multiplies dh by silu(gate) = gate σ(gate), not by σ(gate) or gate": (
            lambda dh, gate, up: [{"dup": dh * factor} for factor in (sigmoid(gate), gate)]
        ),
    }
    return [Case(draw(rng, dh=n, gate=n, up=n), swiglu_backward, slips=slips) for n in shapes(rng)]


def weights_backward(do, p, v):
    """dp, dv of o = p v.   do, v (T, D), p (T, T)."""
    return {"dp": do @ v.T, "dv": p.T @ do}


def weights_cases(rng):
    """For dp, dv = f(do, p, v): p is a causal softmax."""
    slips = {
        "dv = pᵀ do: p was not transposed": lambda do, p, v: [{"dv": p @ do}],
        "dp is (T, T) with do before v: place i reads, place j is read": lambda do, p, v: [
            {"dp": v @ do.T}
        ],
        "softmax has a step of its own: here dp is that of o = p v alone": lambda do, p, v: [
            {"dp": p * (do @ v.T)},
            {"dp": softmax_backward(do @ v.T, p)["ds"]},
        ],
        "where p is 0 its gradient is not: softmax makes it 0, one step later": lambda do, p, v: [
            {"dp": np.tril(do @ v.T)}
        ],
    }
    cases = []
    for T, D in shapes(rng):
        p = softmax(np.where(np.tri(T), rng.standard_normal((T, T)), -np.inf))
        a = draw(rng, do=(T, D), v=(T, D))
        cases.append(Case({"do": a["do"], "p": p, "v": a["v"]}, weights_backward, slips=slips))
    return cases


def attention_by(
    do, q, k, v, scale=True, row_sum=True, seen=np.tri, transposed=True, axis=1, over=-1
):
    """attention_backward, with a part left out, or with a sum over another axis.

    seen: of the number of places, 1 where one is seen; axis: of the sum of softmax's backward;
    over: of the softmax itself.
    """
    root = np.sqrt(q.shape[1])
    e = np.where(seen(len(q)), np.exp(q @ k.T / root), 0)
    p = e / e.sum(over, keepdims=True)
    dp = do @ v.T
    ds = p * (dp - (p * dp).sum(axis, keepdims=True) * row_sum) / (root if scale else 1)
    return {"dq": ds @ k, "dk": ds.T @ q, "dv": (p.T if transposed else p) @ do}


OTHER_SOFTMAX = "the softmax is of each row: its weights add up to 1"
NO_ROOT = "the scores are q kᵀ / √D: the factor 1/√D is missing"


def attention_cases(rng):
    """For dq, dk, dv = f(do, q, k, v)."""
    slips = {
        NO_ROOT: lambda **a: [attention_by(**a, scale=False)],
        NO_ROW_SUM: lambda **a: [attention_by(**a, row_sum=False)],
        OTHER_SUM: lambda **a: [attention_by(**a, axis=axis) for axis in (0, None)],
        "the mask is missing: p was made again without it": lambda **a: [
            attention_by(**a, seen=lambda T: np.ones((T, T)))
        ],
        "the mask hides what came before: it has to hide what comes later": lambda **a: [
            attention_by(**a, seen=lambda T: np.tri(T).T)
        ],
        OTHER_SOFTMAX: lambda **a: [attention_by(**a, over=over) for over in (0, None)],
        "dv = pᵀ do: p was not transposed": lambda **a: [
            {"dv": attention_by(**a, transposed=False)["dv"]}
        ],
    }
    return [
        Case(draw(rng, do=n, q=n, k=n, v=n), attention_backward, slips=slips) for n in shapes(rng)
    ]


EXERCISES = (
    predict(
        "backward_sum",
        "z has 3 rows of logits, each with a target. What do all numbers of dz add up to?",
        (
            "dz is (p - onehot) / 3 in every row.",
            "What do the probabilities of a row add up to, and what does its onehot?",
        ),
        number=lambda: round(float(loss_backward(np.eye(3, 7), np.arange(3))["dz"].sum()), 12),
        because="p adds up to 1 in each row, and 1 is subtracted at the target.",
        near={1: "that is p alone: onehot also adds up to 1", 3: "that is p alone, over 3 rows"},
        rounding=1e-12,
    ),
    blank(
        "backward_loss",
        "Cross-entropy of softmax(z), mean over the rows: z (M, V), targets (M,) -> dz",
        (
            "loss of a row = log Σ exp(z) - z[target]. Differentiate each of the two terms.",
            "log Σ exp(z) gives softmax(z); z[target] gives 1 at the target. "
            "a[np.arange(M), targets] is one number of each row.",
        ),
        loss_cases,
    ),
    blank(
        "backward_softmax",
        "p = softmax(s) of each row: dp, p -> ds",
        (
            "If i = j, s_i is in the numerator and in the sum; else it is only in the sum.",
            "∂p_j/∂s_i = p_j ([i = j] - p_i), [i = j] being 1 or 0. Times dp_j, and sum over j.",
        ),
        softmax_cases,
    ),
    blank(
        "backward_rho",
        "y = g · xρ, back to ρ: dy, x (M, C), g (C,) -> dρ (M, 1)",
        (
            "First y = g n: what is dn? Then n = xρ, where ρ is one number for a whole row.",
            "ρ is a factor of every number of its row: sum dn times the other factor over the row.",
        ),
        rho_cases,
    ),
    blank(
        "backward_rmsnorm",
        "y = g · xρ, ρ = 1/√(mean(x²) + eps): dy, x, g, eps -> dx, dg",
        (
            "x reaches y by two paths: as the factor x, and through ρ.",
            "∂ρ/∂x_i = -ρ³ x_i / C. Each x gets this times dρ, in addition to its own path.",
        ),
        rmsnorm_cases,
    ),
    blank(
        "backward_rope",
        "y = R x, a rotation of each pair: dy, cos, sin -> dx",
        (
            "A linear map y = R x has dx = Rᵀ dy.",
            "The transpose of a rotation is the rotation back: sin changes its sign.",
        ),
        rope_cases,
    ),
    blank(
        "backward_swiglu",
        "h = silu(gate) · up, silu(z) = z σ(z): dh, gate, up -> dgate, dup",
        (
            "dup holds silu(gate) fixed; dgate holds up fixed.",
            "silu' by the product rule, with σ' = σ (1 - σ).",
        ),
        swiglu_cases,
    ),
    blank(
        "backward_weights",
        "o = p v: do, p (T, T), v (T, D) -> dp, dv",
        (
            "Write the shapes: dp is (T, T), dv is (T, D). Which products of two have them?",
            "Row i of o is the sum over j of p_ij v_j. p_ij gets the product of do_i and v_j.",
        ),
        weights_cases,
    ),
    blank(
        "backward_attention",
        "o = p v, p = softmax(q kᵀ / √D + mask): do, q, k, v (T, D) -> dq, dk, dv",
        (
            "Compute p again, then go back: o = p v gives dp and dv.",
            "p = softmax(s) gives ds, by your own function; a masked p is 0, and so is its ds.",
        ),
        attention_cases,
    ),
    broken(
        "backward_break",
        "Leave the path through ρ out of RMSNorm's dx: dy, x, g, eps -> dx, dg",
        (
            "Start from your backward of RMSNorm.",
            "dx has two terms. Which of them is ρ's?",
        ),
        rmsnorm_cases,
        slip=NO_RHO,
    ),
)
