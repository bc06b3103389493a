# %% [markdown]
r"""
# 02b · The Llama's backward: every piece of a layer, by hand

When you are done you can

- derive the backward of softmax with cross-entropy, RMSNorm, RoPE, SwiGLU and attention, before you read it,
- say for each what it keeps, and which slip is common,
- put these functions on the tape, and train a whole layer of your own.

*Needs*: notebooks 01, 01b and 02. *Time*: 40 minutes to read, 110 to do.
*Papers*: Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), equation 1; Zhang and
Sennrich 2019, [arXiv:1910.07467](https://arxiv.org/abs/1910.07467); Su et al. 2021,
[arXiv:2104.09864](https://arxiv.org/abs/2104.09864), equation 34; Shazeer 2020,
[arXiv:2002.05202](https://arxiv.org/abs/2002.05202). *Symbols*: the table in notebook 03. *The one idea*: name every step of forward, then go
back one step at a time.
"""

# %%
from types import SimpleNamespace

import numpy as np

import minilora as ml
from minilora import engine, ops
from minilora.llama import rotation
from minilora.methods.base import Moment
from minilora_course import check, course
from minilora_course.lessons.layer import pairs

# %% [markdown]
r"""
Three rules are enough for the whole notebook. $d$ stands for $\partial\,\text{loss}/\partial$, and each
gradient has its array's shape.

1. *One path*: $y = f(x)$ gives $dx_i = \sum_j dy_j\,\partial y_j/\partial x_i$.
2. *Two paths*: if $x$ reaches the loss by two paths, $dx$ is the sum of both.
3. *A product of matrices*: $y = uV^\top$ gives $du = dy\,V$ and $dV = dy^\top u$ (notebook 01).

Each exercise comes before its derivation: derive the backward on paper, write it, and run the check. The derivation is folded below the
check; open it afterwards.

## The loss: softmax with cross-entropy

**Logits** $z$ (M, V) are the scores that a model gives to all $V$ tokens of its vocabulary, one row for each of $M$ places;
$p = \text{softmax}(z)$, row by row; the right token of row $m$ is its target $t_m$. The loss is the mean over the $M$ rows. For one row it is

$$\text{loss}_m = -\log p_{t} = \log \textstyle\sum_v e^{z_v} - z_t .$$

Differentiate each of the two terms: how does it change with each $z_v$ of the row?

**Predict.** Three rows of logits: what do all numbers of $dz$ add up to? Then **fill the blank**.
"""

# %% exercise backward_sum
total = None  # your number
### BEGIN SOLUTION
total = 0
### END SOLUTION

# %% check backward_sum
check("backward_sum", total)

# %% exercise backward_loss
def backward_loss(z, targets):
    """z (M, V), targets (M,) ints -> dz (M, V) of the mean loss."""
    ### BEGIN SOLUTION
    M = len(z)
    e = np.exp(z - z.max(1, keepdims=True))  # the largest logit is taken out: no overflow
    dz = e / e.sum(1, keepdims=True)  # log Σ exp(z)
    dz[np.arange(M), targets] -= 1  # - z[target]
    return dz / M  # the mean over M rows
    ### END SOLUTION

# %% check backward_loss
check("backward_loss", backward_loss)

# %% [markdown]
r"""
<details><summary><b>The derivation</b></summary>

The first term is a function of all $z_v$, and $\partial \log\sum e^{z} / \partial z_v
= e^{z_v}/\sum e^{z} = p_v$. The second gives $-1$ at $v = t$ and 0 elsewhere. The loss is the mean of the $M$
rows, so each row gets $1/M$:

$$dz_{mv} = \tfrac1M\,\big(p_{mv} - [v = t_m]\big),$$

where $[\ldots]$ is 1 if the statement inside is true, else 0. A row of $[v = t_m]$ is called *one-hot*.

</details>

## Softmax alone

Attention has a softmax that is not followed by a loss: $p_j = e^{s_j}/\sum_k e^{s_k}$, row by row. The score $s_i$
is in the numerator of $p_i$ and in the denominator of every $p_j$. So first: what is $\partial p_j/\partial s_i$, for $i = j$ and for
$i \ne j$? Then use rule 1. **Fill the blank**: backward reads only $p$ and $dp$.
"""

# %% exercise backward_softmax
def backward_softmax(dp, p):
    """dp, p (T, S), each row of p a softmax -> ds (T, S)."""
    ### BEGIN SOLUTION
    row = (dp * p).sum(-1, keepdims=True)  # Σ exp(s) is the denominator of every p of the row
    return p * (dp - row)
    ### END SOLUTION

# %% check backward_softmax
check("backward_softmax", backward_softmax)

# %% [markdown]
r"""
<details><summary><b>The derivation</b></summary>

$$\frac{\partial p_j}{\partial s_i} = p_j\,\big([i = j] - p_i\big) .$$

Rule 1, $ds_i = \sum_j dp_j\,p_j\,([i=j] - p_i)$, has two terms: the one of $i = j$, and one with a sum over
the row that is the same for every $i$:

$$ds_i = p_i\,\Big(dp_i - \sum_j dp_j\,p_j\Big).$$

</details>

## RMSNorm

Name the steps: $\rho = \big(\tfrac1C\sum_c x_c^2 + \varepsilon\big)^{-1/2}$, one number a row; $n = x\rho$;
$y = g \odot n$, with the gain $g$ (C,) for all rows. Go back from the end, one step at a time.

**Fill the blank** twice. First go back to $\rho$: what is $d\rho$, if $\rho$ is a factor of every number of its row? Then the rest. $x$ reaches $n$
by two paths: as a factor, and through $\rho$. So: what is $\partial\rho/\partial x_i$? And what is $dg$, if every row used the same $g$?
"""

# %% exercise backward_rho
def backward_rho(dy, x, g):
    """dy, x (M, C), g (C,) -> dρ (M, 1), a number a row."""
    ### BEGIN SOLUTION
    dn = dy * g  # y = g n
    return (dn * x).sum(1, keepdims=True)  # n = x ρ
    ### END SOLUTION

# %% check backward_rho
check("backward_rho", backward_rho)

# %% exercise backward_rmsnorm
def backward_rmsnorm(dy, x, g, eps):
    """dy, x (M, C), g (C,) -> dx (M, C), dg (C,)."""
    ### BEGIN SOLUTION
    rho = 1 / np.sqrt((x**2).mean(1, keepdims=True) + eps)
    dg = (dy * x * rho).sum(0)  # y = g n
    dn = dy * g  # y = g n
    dx = dn * rho - backward_rho(dy, x, g) * rho**3 * x / x.shape[1]  # n = x ρ, and ρ of x
    return dx, dg
    ### END SOLUTION

# %% check backward_rmsnorm
check("backward_rmsnorm", backward_rmsnorm)

# %% [markdown]
r"""
<details><summary><b>The derivation</b></summary>

From the end to the start:

- $y = g \odot n$: $dn = dy \odot g$, and $dg = \sum_m dy \odot n$, since every row used the same $g$.
- $n = x\rho$ with $\rho$ as a factor: $d\rho = \sum_c dn_c\,x_c$, one number per row.
- $\rho$ as a function of $x$: $\partial\rho/\partial x_i = -\tfrac12\,\rho^3 \cdot \tfrac2C x_i = -\rho^3
  x_i / C$.
- $x$ has two paths, as a factor of $n$ and through $\rho$:

$$dx = dn\,\rho \;-\; x\,\rho^3\,\tfrac1C\sum_c dn_c\,x_c .$$

</details>

**Break it.** Leave out the path through $\rho$. The error is small if $C$ is large, and a model still trains with
it, only worse: that is why this slip is so rarely found.
"""

# %% exercise backward_break
def one_path(dy, x, g, eps):
    """The same arguments, ρ taken for a constant."""
    ### BEGIN SOLUTION
    rho = 1 / np.sqrt((x**2).mean(1, keepdims=True) + eps)
    return dy * g * rho, (dy * x * rho).sum(0)
    ### END SOLUTION

# %% check backward_break
check("backward_break", one_path)

# %% [markdown]
r"""
## RoPE

RoPE rotates the two halves $a$, $b$ of a row pair by pair, by an angle that depends on its place (notebook 02):

$$y = \big[\,a\cos - b\sin,\;\; b\cos + a\sin\,\big].$$

With $dy = [u, v]$: by which paths does $a$ reach the two halves of $y$, and by which does $b$? Which rotation of $dy$ is the result? And which activation does backward
have to read? **Fill the blank.**
"""

# %% exercise backward_rope
def backward_rope(dy, cos, sin):
    """dy (T, D), cos, sin (T, D/2) -> dx (T, D)."""
    ### BEGIN SOLUTION
    u, v = np.split(dy, 2, axis=1)
    da = u * cos + v * sin  # a cos, a sin
    db = v * cos - u * sin  # b cos, -b sin
    return np.concatenate([da, db], axis=1)
    ### END SOLUTION

# %% check backward_rope
check("backward_rope", backward_rope)

# %% [markdown]
r"""
<details><summary><b>The derivation</b></summary>

RoPE is linear in $x$. $a$ has two paths: into the first half by $\cos$, into the second by $\sin$; $b$ by $-\sin$ and by $\cos$:

$$da = u\cos + v\sin,\qquad db = v\cos - u\sin .$$

That is the rotation back. Backward reads the angles, and no activation at all.

</details>

## SwiGLU

$h = \text{silu}(z)\odot w$ with the gate $z$ and the values $w$ (both (M, F)), $\text{silu}(z) = z\,\sigma(z)$,
$\sigma(z) = 1/(1+e^{-z})$. Use $\sigma' = \sigma(1-\sigma)$. What is $\text{silu}'$, by the product rule? **Fill the blank.**
"""

# %% exercise backward_swiglu
def backward_swiglu(dh, gate, up):
    """dh, gate, up (M, F) -> dgate, dup (M, F)."""
    ### BEGIN SOLUTION
    p = 1 / (1 + np.exp(-gate))
    dgate = dh * up * (p + gate * p * (1 - p))  # h = silu(gate) up
    dup = dh * gate * p  # h = silu(gate) up
    return dgate, dup
    ### END SOLUTION

# %% check backward_swiglu
check("backward_swiglu", backward_swiglu)

# %% [markdown]
r"""
<details><summary><b>The derivation</b></summary>

$$\text{silu}'(z) = \sigma(z) + z\,\sigma(z)\,\big(1 - \sigma(z)\big),\qquad
dz = dh\odot w\odot \text{silu}'(z),\qquad dw = dh\odot \text{silu}(z) .$$

</details>

## Attention

One head, $q, k, v$ (T, D). Name the steps: $s = qk^\top/\sqrt D$ where $j \le i$, $-\infty$ elsewhere;
$p = \text{softmax}(s)$; $o = pv$. Go back from the end.

**Fill the blank** twice. First the last step: rule 3 is for $y = uV^\top$, but here $o = pv$ has no transpose. Then the rest, with your softmax,
and rule 3 again, with the factor $1/\sqrt D$. Where a score is $-\infty$, $p$ is 0: what is $ds$ there?
The package keeps $q, k, v, o$ and one number per row, never $p$ (T, T). You may compute $p$ again.
"""

# %% exercise backward_weights
def backward_weights(do, p, v):
    """do, v (T, D), p (T, T) -> dp (T, T), dv (T, D)."""
    ### BEGIN SOLUTION
    return do @ v.T, p.T @ do  # o = p v
    ### END SOLUTION

# %% check backward_weights
check("backward_weights", backward_weights)

# %% exercise backward_attention
def backward_attention(do, q, k, v):
    """do, q, k, v (T, D) -> dq, dk, dv (T, D)."""
    ### BEGIN SOLUTION
    root = np.sqrt(q.shape[1])
    s = np.where(np.tri(len(q)), q @ k.T / root, -np.inf)
    e = np.exp(s - s.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)  # computed again, (T, T)
    dp, dv = backward_weights(do, p, v)  # o = p v
    ds = backward_softmax(dp, p) / root  # p = softmax(s), s = q kᵀ / √D
    return ds @ k, ds.T @ q, dv  # s = q kᵀ / √D
    ### END SOLUTION

# %% check backward_attention
check("backward_attention", backward_attention)

# %% [markdown]
r"""
<details><summary><b>The derivation</b></summary>

$$dp = do\,v^\top,\qquad dv = p^\top do,\qquad ds = p\odot\Big(dp - \textstyle\sum_j dp\odot p\Big),\qquad
dq = \tfrac{1}{\sqrt D}\,ds\,k,\qquad dk = \tfrac{1}{\sqrt D}\,ds^\top q .$$

$ds$ is 0 where $p$ is 0: no gradient flows to a place that was masked.

</details>

## What the five do

The first figure shows the softmax of attention in a trained model. `minilora step --method full` draws the whole step, line by line.
From here on the notebook uses your functions, and the package's for those that you have not written yet.

Each backward multiplies $dy$ by a matrix of derivatives, the **Jacobian**, without ever computing this matrix. To see it,
call backward with a $dy$ that is 1 at one place and 0 elsewhere, once for each place: the second figure.
"""

# %%
course.keep("backward_loss", backward_loss)
course.keep("backward_softmax", backward_softmax)
course.keep("backward_rho", backward_rho)
course.keep("backward_rmsnorm", backward_rmsnorm)
course.keep("backward_rope", backward_rope)
course.keep("backward_swiglu", backward_swiglu)
course.keep("backward_weights", backward_weights)
course.keep("backward_attention", backward_attention)
names = ("loss", "softmax", "rmsnorm", "rope", "swiglu", "attention")
back = dict(zip(names, course.mine(*(f"backward_{name}" for name in names))))

model = ml.load_model("base")
batch = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
line = Moment("softmax undone", "", "backward", "ds = p", op="attention", place="layers.0")
caption = (
    "The package's line in the first layer, its four heads side by side: 12 tokens of Dwalk>walked. Red is above 0, blue below. "
    "Where a token may not look p is 0. So ds is 0 there: nothing goes back to what was not seen. The package sums do o over a head: the same number as your sum of dp p."
)
course.show(ml.trace(ml.attach(model, "full"), *batch).figure(line), caption)

# %% figure
rng = np.random.default_rng(0)
ones, n = np.eye(8), np.exp(rng.normal(size=(1, 8)))
x, g, angle = rng.normal(size=(1, 8)), np.ones(8), np.array([[0.9, 0.6, 0.3, 0.1]])
(q, k, v), p = rng.normal(size=(3, 8, 1)) * 2, n / n.sum()
jacobians = {
    "softmax": [back["softmax"](e[None], p)[0] for e in ones],
    "RMSNorm": [back["rmsnorm"](e[None], x, g, 0.0)[0][0] for e in ones],
    "RoPE": [back["rope"](e[None], np.cos(angle), np.sin(angle))[0] for e in ones],
    "attention, o by v": [back["attention"](e[:, None], q, k, v)[2][:, 0] for e in ones],
}
J = {name: np.array(rows) for name, rows in jacobians.items()}
assert np.allclose(J["softmax"], np.diag(p[0]) - np.outer(p, p))
assert np.allclose(J["RMSNorm"] @ x[0], 0)  # a longer x changes nothing
assert np.allclose(J["RoPE"] @ J["RoPE"].T, np.eye(8))
assert np.allclose(J["attention, o by v"].sum(1), 1)  # a row of weights
caption = (
    "Jacobians of 8 numbers each: row j is how output j changes with each input. Red is above 0, blue below. Softmax: a positive "
    "diagonal, all else below zero. RMSNorm: the identity, less the direction of x. RoPE: four rotations. "
    "Attention: an output depends on its own place and on those before it."
)
with course.figure(caption, width=12, height=3.6, columns=4) as panels:
    for axes, (name, matrix) in zip(panels, J.items()):
        top = np.abs(matrix).max()
        axes.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
        axes.set(title=name, xticks=[], yticks=[], xlabel="input")
        axes.grid(visible=False)
    panels[0].set_ylabel("output")

# %% [markdown]
r"""
## A layer on the tape

**Fill the blank**: the forward pass of a layer, as at the end of notebook 02, with two additions to the stream. Its ops are
`use.norm(x, g)`, `use.linear(x, W)`, `use.rope(q)`, `use.attention(q, k, v)` and `use.swiglu(gate, up)`; its weights are
`w["norm1"]`, `w["q"]` and so on. $x$ is a tensor of the tape, and `+` adds two.
"""

# %% exercise backward_layer
def backward_layer(x, w, use):
    """x (T, C); w a dict: norm1, q, k, v, o, norm2, gate, up, down; use: the pieces -> y (T, C)."""
    ### BEGIN SOLUTION
    h = use.norm(x, w["norm1"])
    q, k, v = (use.linear(h, w[name]) for name in "qkv")
    o = use.attention(use.rope(q), use.rope(k), v)
    x = x + use.linear(o, w["o"])
    h = use.norm(x, w["norm2"])
    gate, up = use.linear(h, w["gate"]), use.linear(h, w["up"])
    return x + use.linear(use.swiglu(gate, up), w["down"])
    ### END SOLUTION

# %% check backward_layer
check("backward_layer", backward_layer)

# %% [markdown]
r"""
Notebook 01's tape needs pairs. `bind` makes a pair from two functions; its cache holds all arguments. With your walk from notebook 01,
the layer is a pair, too: ten arrays in, one out. So `gradcheck` can check it.

**Do it.** Write that pair, in the second cell: forward makes leaves, calls `layer(x, w, use)` and returns the output and what backward needs; backward walks
along the tape. Check all ten arrays with `ml.gradcheck`. If all are right, it returns the names of your forward's arguments.
"""

# %%
def bind(name, forward, backward):
    """An op on the tape.   forward(*args) -> y; backward(dy, *args) -> gradients."""
    return ml.Op(name, lambda *args: (forward(*args), args), lambda dy, args: backward(dy, *args))

forwards = "llama_norm", "llama_rope", "llama_swiglu", "llama_attention"
norm, rope, swiglu, attention, linear_back = course.mine(*forwards, "linear_backward")

def pieces(cos, sin, norm_back=back["rmsnorm"]):
    """Your pieces as ops, for one head and these angles (T, D/2)."""
    normed = bind("norm", norm, norm_back)
    turned = bind("rope", rope, lambda dy, x, c, s: (back["rope"](dy, c, s),))
    return SimpleNamespace(
        norm=lambda x, g: normed(x, g, 1e-5),
        linear=bind("linear", lambda x, W: x @ W.T, linear_back),
        rope=lambda x: turned(x, cos, sin),
        swiglu=bind("swiglu", swiglu, back["swiglu"]),
        attention=bind("attention", attention, back["attention"]),
    )

# %% open backward_whole
course.keep("backward_layer", backward_layer)
layer, walk = course.mine("backward_layer", "tape_walk")
C, F, T = 32, 48, 60
shapes = dict(norm1=C, q=(C, C), k=(C, C), v=(C, C), o=(C, C), norm2=C, gate=(F, C), up=(F, C), down=(C, F))
w = {n: np.ones(C) if shape == C else rng.normal(size=shape) / 8 for n, shape in shapes.items()}
cos, sin = rotation.tables(C, 10000.0, None, T, np.float64)
use = pieces(cos, sin)
### BEGIN SOLUTION
def whole_forward(x, *arrays):
    leaves = [ml.param(a) for a in (x, *arrays)]
    y = layer(leaves[0], dict(zip(w, leaves[1:])), use)
    return y.data, (y, leaves)

def whole_backward(dy, cache):
    y, leaves = cache
    grads = walk(engine.tape(y), dy)
    return tuple(grads[leaf.node] for leaf in leaves)

print(ml.gradcheck(whole_forward, whole_backward, rng.normal(size=(T, C)), *w.values()))
### END SOLUTION

# %% [markdown]
r"""
## It trains

We add a table of embeddings before the layer, a head after it, and your loss at the end. The text is a few verbs and their past
tense, and the model predicts every letter from the letters before it. Then the same steps once more with the package's ops and
its own walk:
"""

# %%
words, tokenizer = ml.load_task("past"), model.tokenizer
text = np.concatenate([tokenizer.encode(verb + past[0]) for verb, past in words.train[:8]])
ids, targets = text[:T], text[1 : T + 1]
rng = np.random.default_rng(1)  # the same start, whatever was drawn above
start = {**w, "table": rng.normal(size=(tokenizer.vocab_size, C)) / 2,
         "head": rng.normal(size=(tokenizer.vocab_size, C)) / 8}

def loss_of(z, targets):
    """The mean cross-entropy."""
    top = z.max(1, keepdims=True)
    return (top[:, 0] + np.log(np.exp(z - top).sum(1)) - z[np.arange(len(z)), targets]).mean()

mine = bind("loss", loss_of, lambda dloss, z, t: (dloss * back["loss"](z, t),))

def train(use, layer, loss, gradients, steps=150, rate=0.2):
    """Gradient descent -> the loss of every step."""
    arrays, losses = dict(start), []
    for _ in range(steps):
        leaves = {name: ml.param(a, name) for name, a in arrays.items()}
        x = layer(ops.embedding(leaves["table"], ids), leaves, use)
        out = loss(use.linear(x, leaves["head"]), targets)
        losses.append(float(out.data))
        grads = gradients(out, leaves)
        arrays = {name: a - rate * grads[name] for name, a in arrays.items()}
    return losses

def by_walk(out, leaves):
    grads = walk(engine.tape(out), np.ones_like(out.data))
    return {name: grads[leaf.node] for name, leaf in leaves.items()}

def by_package(out, leaves):
    ml.backward(out)
    return {name: leaf.grad for name, leaf in leaves.items()}

yours = train(use, layer, mine, by_walk)
theirs = train(pairs(cos, sin), layer, ops.cross_entropy, by_package)
assert np.allclose(yours, theirs, rtol=1e-9) and yours[-1] < 0.2 * yours[0]
print(f"yours      {yours[0]:.6f} -> {yours[-1]:.6f}")
print(f"package's  {theirs[0]:.6f} -> {theirs[-1]:.6f}")
caption = "One layer on eight verbs: the loss with your pieces and your walk, over the package's. One curve."
with course.figure(caption, height=3.6) as axes:
    axes.plot(theirs, color="#56B4E9", lw=6, alpha=0.5, label="the package's ops and walk")
    axes.plot(yours, color="#D55E00", lw=1.5, label="yours")
    axes.set(yscale="log", xlabel="step", ylabel="cross-entropy\n(nats per token)")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)

# %% [markdown]
r"""
**Open.** Put a slip into one backward, such as `one_path` for the norm. Predict first: does the loss still fall, and
how far? Then train with it, and explain what you see. `pieces(cos, sin, norm_back=one_path)` changes the norm.
"""

# %% open backward_slip
### BEGIN SOLUTION
slipped = train(pieces(cos, sin, norm_back=one_path), layer, mine, by_walk)
print(f"without ρ's path {slipped[-1]:.4f}, right {yours[-1]:.4f}")
print("It trains, and nothing looks broken: the first term of dx points downhill already.")
### END SOLUTION

# %% [markdown]
r"""
## What changed

- Three rules were enough for five derivations. Every line of a backward differentiates one line of forward.
- The formulas say what to keep: softmax keeps $p$, RoPE its angles, the norm $x$, attention $q, k, v$.
- A model can train with a wrong gradient. Only a check of the gradient finds the slip.

Next: 03, what fine-tuning changes in the weights of such layers.
"""
