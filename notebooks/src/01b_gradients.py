# %% [markdown]
r"""
# 01b · Check a gradient: differences, and a test that finds its own examples

When you are done you can

- compare any backward with central differences, and choose the step,
- check a gradient of any size with two calls of forward,
- write a property test, and read the smallest example that breaks it.

*Needs*: notebook 01. *Time*: 25 minutes to read, 60 to do.
*Paper*: Claessen and Hughes 2000, [doi:10.1145/351240.351266](https://doi.org/10.1145/351240.351266),
on property tests. *The one idea*: a gradient predicts the effect of a small change, so make small changes and compare.
"""

# %%
import numpy as np
from hypothesis import given, settings

import minilora as ml
from minilora import strategies
from minilora_course import check, course

# %% [markdown]
r"""
## Both sides

Let $f$ give one number, and move $t$ by $h$. Taylor's formula:

$$f(t \pm h) = f(t) \pm h\,f'(t) + \tfrac{h^2}{2} f''(t) \pm \tfrac{h^3}{6} f'''(t) + \dots$$

One side, $\big(f(t+h) - f(t)\big)/h$, is wrong by about $\tfrac{h}{2} f''$. In the difference of the two
sides the terms with even powers cancel. This is the **central difference**:

$$\frac{f(t+h) - f(t-h)}{2h} = f'(t) + \tfrac{h^2}{6} f'''(t) + \dots$$

**Predict.** $f(t) = t^3$ at $t = 2$ has $f' = 12$. With $h = 0.1$, by how much is the central difference
too large?
"""

# %% exercise gradient_error
too_large = None  # your number
### BEGIN SOLUTION
too_large = 0.1**2
### END SOLUTION

# %% check gradient_error
check("gradient_error", too_large)

# %% [markdown]
r"""
An array has one derivative for each of its numbers: change one number and keep the others. $x$ may have any number of
axes. **Fill the blank.**
"""

# %% exercise gradient_central
def gradient_central(f, x, h):
    """f: array -> number; x of any shape; h the step -> ∂f/∂x, in x's shape."""
    ### BEGIN SOLUTION
    grad = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = h
        grad[place] = (f(x + step) - f(x - step)) / (2 * h)
    return grad
    ### END SOLUTION

# %% check gradient_central
check("gradient_central", gradient_central)

# %% [markdown]
r"""
## Which step?

A small $h$ is not always better. A computer stores a number with a relative error $\varepsilon$: $2\cdot
10^{-16}$ in float64, $10^{-7}$ in float32. The difference of two nearly equal numbers still has that error,
and the division by $h$ makes it large: $\varepsilon/h$. The total error is about $h^2 + \varepsilon/h$.

**Predict.** At which power of ten is it smallest in float64? (Write -3 for $h = 10^{-3}$.)
"""

# %% exercise gradient_step
power = None  # your number
### BEGIN SOLUTION
power = -5  # h³ = ε
### END SOLUTION

# %% check gradient_step
check("gradient_step", power)

# %% [markdown]
r"""
Now measure it. **Fill the blank**: the largest error of a gradient, for each of several step sizes.
"""

# %% exercise gradient_errors
def gradient_errors(gradient, f, x, right, steps):
    """gradient(f, x, h) for every h in steps -> its largest error, an array."""
    ### BEGIN SOLUTION
    found = [gradient(f, x, h) for h in steps]
    return np.array([np.abs(g - right).max() for g in found])
    ### END SOLUTION

# %% check gradient_errors
check("gradient_errors", gradient_errors)

# %%
course.keep("gradient_central", gradient_central)
course.keep("gradient_errors", gradient_errors)
central, errors = course.mine("gradient_central", "gradient_errors")

def forward_only(f, x, h):
    """One side, for the figure."""
    return np.array([(f(x + h * e) - f(x)) / h for e in np.eye(len(x), dtype=x.dtype)])

def loss(x):
    return np.exp(np.sin(x)).sum()

x = np.array([0.3, 1.1, -0.7])
right, steps = np.exp(np.sin(x)) * np.cos(x), 10.0 ** np.arange(-13, 0.1, 0.25)
curves = {
    "one side, float64": errors(forward_only, loss, x, right, steps),
    "central, float64": errors(central, loss, x, right, steps),
    "central, float32": errors(central, loss, x.astype(np.float32), right, steps.astype(np.float32)),
}
curves = {name: np.array(curve) for name, curve in curves.items()}  # if yours are lists
for name, curve in curves.items():
    print(f"{name:18} best at h = {steps[curve.argmin()]:.0e}, error {curve.min():.0e}")
assert curves["central, float32"].min() > 1e4 * curves["central, float64"].min()

# %% figure
caption = (
    "The error of a gradient by differences, against the step. On the right Taylor's rest, which falls "
    "with h (one side) or h² (both). On the left rounding, which grows with 1/h. Float32 leaves no step "
    "that is good: its best error is more than ten thousand times that of float64. Where its line is flat, "
    "x + h rounds to x: the difference is 0, and the error is the gradient itself."
)
with course.figure(caption, height=4.8) as axes:
    for (name, curve), colour in zip(curves.items(), ["#E69F00", "#0072B2", "#7F7F7F"]):
        axes.plot(steps, curve, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="step h", ylabel="largest error", ylim=(1e-12, 10))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=12)

# %% [markdown]
r"""
So a check uses float64, whatever dtype the model trains in.

## A direction

For a weight of a million numbers, central differences need two million calls of forward. One direction covers all numbers. Move
all of them at once, by $h\,v$ with a random $v$. The chain rule gives the slope along $v$:

$$\frac{f(x + h v) - f(x - h v)}{2h} \approx \sum_i \frac{\partial f}{\partial x_i} v_i .$$

The check finds a wrong gradient unless its error is orthogonal to $v$, which almost never happens for a random $v$.
**Fill the blank**: return both sides of this equation.
"""

# %% exercise gradient_directional
def gradient_directional(f, df, x, v, h):
    """f: array -> number; df its gradient at x; v in x's shape -> by differences, by the gradient."""
    ### BEGIN SOLUTION
    by_differences = (f(x + h * v) - f(x - h * v)) / (2 * h)
    by_gradient = (df * v).sum()
    return by_differences, by_gradient
    ### END SOLUTION

# %% check gradient_directional
check("gradient_directional", gradient_directional)

# %% [markdown]
r"""
## A pair

An op returns an array, not a number. Turn it into a loss with a fixed random $dy$: $\text{loss} = \sum dy
\odot y$. The gradient of this loss with respect to $y$ is $dy$, the argument of backward. Why random?

**Break it**, and you will see why. A plain sum of $y$ has $dy = 1$ everywhere. Write a backward of $y = xW^\top$ whose $dx$ is right for this $dy$, and
wrong for any other.
"""

# %% exercise gradient_blind
def blind(dy, x, W):
    """dy (M, O), x (M, I), W (O, I) -> dx, dW: dx is right only where dy is 1 everywhere."""
    ### BEGIN SOLUTION
    return dy**2 @ W, dy.T @ x
    ### END SOLUTION

# %% check gradient_blind
check("gradient_blind", blind)

# %% [markdown]
r"""
**Fill the blank**: is a pair right? Use your central differences. The check passes two right pairs to your function, with two different
forwards, and five wrong ones. A right pair agrees with the differences to about five digits.
"""

# %% exercise gradient_check
def gradient_check(forward, backward, x, W):
    """forward(x, W) -> (y, cache); backward(dy, cache) -> dx, dW. -> True or False."""
    ### BEGIN SOLUTION
    y, cache = forward(x, W)
    dy = np.random.default_rng(0).normal(size=y.shape)
    dx, dW = backward(dy, cache)
    by_x = gradient_central(lambda a: (dy * forward(a, W)[0]).sum(), x, 1e-5)
    by_W = gradient_central(lambda a: (dy * forward(x, a)[0]).sum(), W, 1e-5)
    return np.allclose(dx, by_x, atol=1e-6) and np.allclose(dW, by_W, atol=1e-6)
    ### END SOLUTION

# %% check gradient_check
check("gradient_check", gradient_check)

# %%
course.keep("gradient_check", gradient_check)
rng = np.random.default_rng(0)
x, W = rng.normal(size=(4, 3)), rng.normal(size=(2, 3))

def forward(x, W):
    return x @ W.T, (x, W)

def as_mean(dy, cache):
    """dW as a mean over the rows: the slip."""
    x, W = cache
    return dy @ W, dy.T @ x / len(x)

assert not course.mine("gradient_check")(forward, as_mean, x, W)
try:
    ml.gradcheck(forward, as_mean, x, W)
except AssertionError as error:
    print(error)
print("the right pair:", ml.gradcheck(forward, lambda dy, cache: (dy @ cache[1], dy.T @ cache[0]), x, W))

# %% [markdown]
r"""
`ml.gradcheck` does the same and a little more: it takes any number of arguments, two directions for each, a
difference of five points (its error is of order $h^4$), and its error message says where the gradient
is wrong. If everything is right, it returns the names of the arguments that it checked: `('x', 'W')`.

## A property test

One `x` of one shape is one example. A **property** holds for every shape: *backward is the derivative
of forward*. [Hypothesis](https://hypothesis.readthedocs.io) draws the examples, and if one fails it
**shrinks** it: it tries smaller ones until nothing smaller fails. `minilora.strategies` says what to draw.

The pair below is wrong on purpose. It is LoRA's pair, which notebook 04 derives: a linear with a second path,
$y = xW^\top + s\,(xA^\top)B^\top$. Its backward leaves the scale $s$ out of $dA$. What will the smallest example be?
The test draws up to 50 examples, then shrinks the failing one. This takes a few seconds.
"""

# %%
def forward_lora(x, W, s, A, B):
    return x @ W.T + s * (x @ A.T) @ B.T, (x, W, s, A, B)

def slip(dy, cache):
    x, W, s, A, B = cache
    return dy @ (W + s * B @ A), None, None, (dy @ B).T @ x, s * dy.T @ (x @ A.T)

found = {}

@settings(max_examples=50, deadline=None, derandomize=True, database=None)  # the same 50 each time
@given(strategies.linears(), strategies.scalings)  # draws x, W, A, B of fitting shapes; and s
def property_lora(case, s):
    found.update(vars(case), s=s)  # the last example is the smallest
    ml.gradcheck(forward_lora, slip, case.x, case.W, s, case.A, case.B, frozen="W")

# %%
try:
    property_lora()
except AssertionError as error:
    print(str(error).split(":")[1].strip())
print({name: getattr(a, "shape", a) for name, a in found.items()})
assert all(found[name].shape == (1, 1) for name in ("x", "W", "A", "B"))

# %% [markdown]
r"""
Every array is 1 × 1, so the slip has nothing to do with shapes. And $s$ is not 1, the simplest scale: with $s = 1$ the
slip would change nothing. So the slip is about the scale. Read a smallest example in this way: *the part that could not be made simpler is the cause*.

**Predict.** The slip `as_mean` from above: how many rows does the smallest failing $x$ have?
"""

# %% exercise gradient_smallest
rows = None  # your number
### BEGIN SOLUTION
rows = 2
### END SOLUTION

# %% check gradient_smallest
check("gradient_smallest", rows)

# %%
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(strategies.linears())
def property_linear(case):
    found.update(vars(case))
    ml.gradcheck(forward, as_mean, case.x, case.W)

try:
    property_linear()
except AssertionError:
    print("the smallest x has shape", found["x"].shape)

# %% [markdown]
r"""
**Open.** Write an op of your own, forward and backward, and a property test for it: softplus
$\log(1 + e^x)$, a clipped square, the distance of two arrays. `strategies.arrays()` draws an array of any
shape, `strategies.broadcast_pair()` two whose shapes fit. Which example breaks your first version?
At which points does your op have no derivative, and does the test avoid them?
"""

# %% open gradient_property
### BEGIN SOLUTION
def softplus_forward(x):
    return np.logaddexp(0, x), x

def softplus_backward(dy, x):
    return (dy / (1 + np.exp(-x)),)

@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(strategies.arrays())
def property_softplus(x):
    assert ml.gradcheck(softplus_forward, softplus_backward, x) == ("x",)

property_softplus()
print("50 arrays of all shapes, and softplus' = σ holds for each")
### END SOLUTION

# %% [markdown]
r"""
## What changed

- Check a gradient by central differences of forward, in float64, with $h$ near $10^{-5}$.
- With a random direction and a random $dy$, every entry counts.
- A property test draws the examples, and the smallest failing one shows the kind of slip.

Next: 02, a Llama made of pairs; and 02b, where you write their backward.
"""
