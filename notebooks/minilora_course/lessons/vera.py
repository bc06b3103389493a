"""Notebook 06, VeRA: two vectors per layer, on which side each is, and both their gradients."""

from minilora.methods.vera import count, delta, vera_backward, vera_forward

from ..slips import Case
from .exercise import blank, broken, draw, predict, rank, rows, widths


def forward(x, W, A, B, b, d):
    """y = x Wᵀ + b·((d·u) Bᵀ), u = x Aᵀ."""
    return {"y": vera_forward(x, W, A, B, b, d)[0]}


def backward(dy, u, W, A, B, b, d):
    """dx, db, dd: from u = x Aᵀ alone."""
    dx, _, _, _, db, dd, *_ = vera_backward(dy, (u, W, A, B, b, d, False))
    return {"dx": dx, "db": db, "dd": dd}


def merge(W, A, B, b, d):
    """W' = W + Λ_b B Λ_d A."""
    return {"W'": W + delta(A, B, b, d)}


def forward_without_b(x, W, A, B, b, d):
    """b taken for ones."""
    return [forward(x, W, A, B, 0 * b + 1, d)]


def forward_without_d(x, W, A, B, b, d):
    """d taken for ones."""
    return [forward(x, W, A, B, b, 0 * d + 1)]


def forward_wrong_side(x, W, A, B, b, d):
    """b before B, which runs only if r = O."""
    if len(b) != len(d):
        return []
    u = x @ A.T
    return [{"y": x @ W.T + (b * d * u) @ B.T}, {"y": x @ W.T + d * ((b * u) @ B.T)}]


def backward_wrong_side(dy, u, W, A, B, b, d):
    """The gradients of that forward: db has r numbers; dx and dd need r = O."""
    dz = dy @ B
    wrong = [{"db": (dz * d * u).sum(0)}, {"db": (dz * u).sum(0)}]
    if len(b) == len(d):
        wrong += [{"dx": dy @ W + (dz * b * d) @ A}, {"dd": (dz * b * u).sum(0)}]
    return wrong


def backward_without_b(dy, u, W, A, B, b, d):
    """b left out of dx or of dd."""
    wrong = backward(dy, u, W, A, B, 0 * b + 1, d)
    return [{"dx": wrong["dx"]}, {"dd": wrong["dd"]}]


def db_without_d(dy, u, W, A, B, b, d):
    """d left out of db."""
    return [{"db": backward(dy, u, W, A, B, b, 0 * d + 1)["db"]}]


def dx_without_d(dy, u, W, A, B, b, d):
    """d left out of dx."""
    return [{"dx": dy @ W + ((dy * b) @ B) @ A}]


def merge_wrong_side(W, A, B, b, d):
    """b as a scale of columns."""
    return [{"W'": W + (B * b * d) @ A}] if len(b) == len(d) else []


def merge_without_b(W, A, B, b, d):
    """b taken for ones."""
    return [merge(W, A, B, 0 * b + 1, d)]


def merge_without_d(W, A, B, b, d):
    """d taken for ones."""
    return [merge(W, A, B, b, 0 * d + 1)]


def _cases(rng, reference, names, wrong_side, squares=1, slips=None, **paths):
    """Three sets of shapes; in the last ones, as many as squares, r = O."""
    cases, slips = [], {"b on the wrong side": wrong_side, **(slips or {})}
    for left in (3, 2, 1):
        M, (I, O), r = rows(rng), widths(rng, 2), rank(rng)
        r = O if left <= squares else r
        a = draw(rng, dy=(M, O), x=(M, I), W=(O, I), A=(r, I), B=(O, r), b=(O,), d=(r,))
        a["u"] = a["x"] @ a["A"].T
        args = {n: a[n] for n in names}
        cases.append(Case(args, reference, adapter="b", slips=slips, **paths))
    return cases


def forward_cases(rng, squares=1):
    """For y = f(x, W, A, B, b, d)."""
    names, paths = ("x", "W", "A", "B", "b", "d"), dict(rows=("x",), two_paths=("y",))
    slips = {
        "b is missing: it scales each of the O outputs of B": forward_without_b,
        "d is missing: it scales each of the r numbers of u": forward_without_d,
    }
    return _cases(rng, forward, names, forward_wrong_side, squares, slips=slips, **paths)


def square_cases(rng):
    """The same with r = O, where b fits on either side."""
    return forward_cases(rng, squares=3)


def backward_cases(rng):
    """For dx, db, dd = f(dy, u, W, A, B, b, d)."""
    names = ("dy", "u", "W", "A", "B", "b", "d")
    paths = dict(rows=("dy", "u"), summed=("db", "dd"), two_paths=("dx",))
    slips = {
        "dx passes through d as well: dz · d goes to A": dx_without_d,
        "b is missing: dv = dy · b, and dz, dd and dx come from dv": backward_without_b,
        "d is missing: db reads v = (d · u) Bᵀ": db_without_d,
    }
    return _cases(rng, backward, names, backward_wrong_side, slips=slips, **paths)


def merge_cases(rng):
    """For W' = f(W, A, B, b, d)."""
    slips = {
        "d is missing: it scales the columns of B": merge_without_d,
        "b is missing: it scales the rows of B": merge_without_b,
    }
    names = ("W", "A", "B", "b", "d")
    return _cases(rng, merge, names, merge_wrong_side, slips=slips, two_paths=("W'",))


EXERCISES = (
    predict(
        "vera_count",
        "How many numbers does VeRA of rank 256 train on a linear of 64 inputs and 128 outputs?",
        (
            "A and B are drawn once, for all layers, and never trained.",
            "b scales the outputs, d the r numbers in the middle.",
        ),
        number=lambda: count(64, 128, 256),
        because="O + r: the number of inputs does not matter, and r is added, not multiplied.",
        near={
            256 * (64 + 128): "that is LoRA's count: here A and B are frozen",
            64 + 256: "b has one number for each output, not for each input",
            384 + 256 * 192: "that counts the shared A and B too: they are frozen",
        },
    ),
    blank(
        "vera_forward",
        "y = x Wᵀ + b·((d·u) Bᵀ), u = x Aᵀ: x, W, A, B, b, d -> y",
        (
            "d has r numbers and b has O: the shapes show where each of them belongs.",
            "Multiply x by A, by d, by B, by b; then add the base path.",
        ),
        forward_cases,
    ),
    blank(
        "vera_backward",
        "Both vectors' gradients: dy, u, W, A, B, b, d -> dx, db, dd",
        (
            "Go back through y = … + b·v, v = z Bᵀ, z = d·u, one step at a time.",
            "b and d are the same for every row, so their gradients sum over all rows.",
        ),
        backward_cases,
    ),
    blank(
        "vera_merge",
        "One matrix that does it all: W, A, B, b, d -> W'",
        (
            "Λ_b is a diagonal matrix: what does it do to the rows of B?",
            "A column of numbers, b[:, None], scales rows; d, as it is, scales columns.",
        ),
        merge_cases,
    ),
    broken(
        "vera_break",
        "Put b on the wrong side of B in forward: x, W, A, B, b, d -> y",
        (
            "For which shapes does (b·d·u) Bᵀ run?",
            "Only for r = O: the check calls it with such shapes.",
        ),
        square_cases,
        slip="b on the wrong side",
    ),
)
