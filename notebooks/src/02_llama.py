# %% [markdown]
r"""
# 02 · A Llama in 200 lines

When you are done you can

- name every array of a Llama, and count them,
- write its norm, its attention, RoPE and SwiGLU on plain arrays,
- look into a trained model: read from the tape which tokens attend to which.

*Needs*: notebook 01. *Time*: 20 minutes to read, 60 to do.
*Papers*: Touvron et al. 2023, [arXiv:2302.13971](https://arxiv.org/abs/2302.13971); Su et al. 2021,
[arXiv:2104.09864](https://arxiv.org/abs/2104.09864), section 3. *Symbols*: the table in notebook 03.
*The one idea*: each token has a row of numbers, and each layer adds to it information from other tokens.
"""

# %%
import inspect

import numpy as np

import minilora as ml
from minilora import engine
from minilora.llama import rotation
from minilora.methods.base import Moment
from minilora.text.batches import all_once
from minilora_course import check, course

# %% [markdown]
r"""
## The arrays

A language model predicts the next token of a text. In the small model of this package a token is a letter. The table
`embed_tokens` gives each of the $T$ tokens of a text a row of $C$ numbers: $x$ (T, C), the **residual stream**, or stream. A layer has
two parts. In **attention** each token reads from itself and from the tokens before it. The **feed-forward** (`mlp`) works on each
row separately. Each part begins with a **norm**, and adds its result to the stream. The stream after the last layer gives the scores of the next token.

Attention computes a **query**, a **key** and a **value** from each row. The product of one token's query and another token's key
says how much the first token reads from the second; the value is what it reads. This happens in several **heads** in parallel, each with
its own $D$ numbers of query, key and value. All these maps are linears: `q_proj`, `k_proj`, `v_proj`, and `o_proj`, which maps back to $C$ numbers.

A model is a dict from names to arrays. The 200 lines of the title are `class Llama` of `minilora/llama/model.py`, with its docstrings: one
forward pass over this dict. It calls four ops, norm, RoPE, attention and SwiGLU. Each of them is one file of `minilora/ops`, and you write
its forward below. The embedding table and the first layer of our model:
"""

# %%
model, words = ml.load_model("base"), ml.load_task("third")
config = model.config
for name, array in list(model.params.items())[:11]:
    print(f"{name:50} {array.shape}")
print(f"… {config.num_hidden_layers} layers, {sum(a.size for a in model.params.values()):,} numbers")
print("class Llama:", len(inspect.getsource(type(model)).splitlines()), "lines")

# %% [markdown]
r"""
This Llama has more query heads than key heads: two query heads share one head of keys and values. **Predict.** With
width $C = 128$, 4 query heads of size 32 and 2 key heads: how many numbers does the weight of `k_proj` have?
"""

# %% exercise llama_kv
numbers = None  # your number
### BEGIN SOLUTION
numbers = 2 * 32 * 128
### END SOLUTION

# %% check llama_kv
check("llama_kv", numbers)

# %% [markdown]
r"""
## The norm

$$y = g\odot \frac{x}{\sqrt{\tfrac1C\sum_c x_c^2 + \varepsilon}}$$

A norm scales each row of $x$ (M, C) to the same size; $g$ (C,) is trained, and a small $\varepsilon$ keeps the root above 0. This
norm, RMSNorm, subtracts no mean and adds no bias. **Fill the blank.**
"""

# %% exercise llama_norm
def norm(x, g, eps):
    """RMSNorm: x (M, C), g (C,) -> y (M, C)."""
    ### BEGIN SOLUTION
    return g * x / np.sqrt((x**2).mean(1, keepdims=True) + eps)
    ### END SOLUTION

# %% check llama_norm
check("llama_norm", norm)

# %% [markdown]
r"""
The figure shows the package's line in the first layer, on one word. `minilora step --method full` draws every line of a training step in this
way. (Notebook 02b has the backward of the norm and of all other ops.)
"""

# %%
word = all_once([("Swatch>", ("watches",))], model.tokenizer)[0]  # ids and targets
line = Moment("the norm", "", "forward", "y = x * r * g", op="rmsnorm", place="layers.0")
caption = (
    "The first norm on the letters of Swatch>watches, a row for each. Red is above 0, blue below. r is one number a row: it brings "
    "all rows to one size, whatever the size of x. g is one number a column."
)
course.show(ml.trace(ml.attach(model, "full"), *word).figure(line), caption)

# %% [markdown]
r"""
## Attention

For one head, with a row of $q$, $k$ and $v$ (T, D) for each of the $T$ places (positions) in the text:

$$o = \text{softmax}\Big(\frac{qk^\top}{\sqrt D} + \text{mask}\Big)\,v,$$

where softmax is applied to each row. The mask is 0 where $j \le i$ and $-\infty$ elsewhere, so place $i$ reads nothing from a later place $j$: the
weight is $e^{-\infty} = 0$. **Fill the blank**.
"""

# %% exercise llama_attention
def attention(q, k, v):
    """Causal attention of one head: q, k, v (T, D) -> o (T, D)."""
    ### BEGIN SOLUTION
    scores = np.where(np.tri(len(q)), q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True) @ v
    ### END SOLUTION

# %% check llama_attention
check("llama_attention", attention)

# %%
course.keep("llama_norm", norm)  # in my_minilora.py, for notebook 02b
course.keep("llama_attention", attention)

# %% [markdown]
r"""
**Break it**: leave out the mask. In training such a model reads the next letter, which is the answer, and its loss is
very low. But it has learned nothing.
"""

# %% exercise llama_break
def unmasked(q, k, v):
    """The same, every place seeing every other."""
    ### BEGIN SOLUTION
    scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
    return scores / scores.sum(1, keepdims=True) @ v
    ### END SOLUTION

# %% check llama_break
check("llama_break", unmasked)

# %% [markdown]
r"""
## RoPE: places as angles

Apart from the mask, nothing so far depends on the position of a token. RoPE takes the $D$ numbers of $q$ and $k$ in pairs: number $j$ of the
first half with number $j$ of the second. At place $t$ it rotates pair $j$ by the angle $t\,\theta^{-2j/D}$ ($\theta$ is 10,000), from the first
number of the pair towards the second. **Fill the blank.** What is $(1, 0)$ after a rotation by an angle, and what is $(0, 1)$?
"""

# %% exercise llama_rope
def rope(x, cos, sin):
    """x (T, D); cos, sin (T, D/2) of the angles of each place and pair -> y (T, D)."""
    ### BEGIN SOLUTION
    a, b = np.split(x, 2, axis=1)
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=1)
    ### END SOLUTION

# %% check llama_rope
check("llama_rope", rope)

# %% [markdown]
r"""
The product of a rotated $q$ and a rotated $k$ depends only on the difference of their places.

**Do it.** Write `score(i, j)`: rotate $q$ to place $i$ and $k$ to place $j$, and add up the products of their numbers.
`turn(q, cos[i : i + 1], sin[i : i + 1])` gives the rotated $q$. Compare places that are five apart.
"""

# %% open llama_distance
course.keep("llama_rope", rope)
turn = course.mine("llama_rope")
cos, sin = rotation.tables(config.head_dim, config.rope_theta, None, 64, np.float64)  # of 64 places
q, k = np.random.default_rng(0).normal(size=(2, 1, config.head_dim))

### BEGIN SOLUTION
def score(i, j):
    """q at place i times k at place j."""
    rotated = [turn(a, cos[t : t + 1], sin[t : t + 1]) for a, t in ((q, i), (k, j))]
    return float((rotated[0] * rotated[1]).sum())

assert np.isclose(score(9, 4), score(39, 34)) and not np.isclose(score(9, 4), score(9, 5))
print("five places apart is five places apart, wherever it is")
### END SOLUTION

# %% [markdown]
r"""
## Look into it

A softmax divides by a sum of exponentials. Attention keeps $q$, $k$, and for each place and head the logarithm
of that sum, $\text{lse}_i = \log\sum_j \exp(q_i\cdot k_j/\sqrt D)$ over the places $j \le i$. So backward can
compute the weights of each row again, without a sum, and so can you. **Fill the blank.**
"""

# %% exercise llama_weights
def look(q, k, lse):
    """One head: q, k (T, D), lse (T,) -> (T, T): how much each place takes from each."""
    ### BEGIN SOLUTION
    scores = q @ k.T / np.sqrt(q.shape[1])
    return np.tril(np.exp(scores - lse[:, None]))
    ### END SOLUTION

# %% check llama_weights
check("llama_weights", look)

# %% [markdown]
r"""
The text is `S` (the task: third person), a verb, `>`, and the answer, which the base has learned.
"""

# %%
course.keep("llama_weights", look)
look = course.mine("llama_weights")
ids, targets = word
tuned = ml.attach(model, "lora", rank=1)  # something has to train, or there is no tape
tape = engine.tape(tuned.loss(ids, targets, leaves=tuned.leaves()))
attentions = [node.cache for node in tape if node.op and node.op.name == "attention"]
assert len(attentions) == config.num_hidden_layers
letters = [model.tokenizer.decode([int(n)]) or "⊢" for n in ids[0]]

def weights(layer, head):
    """(T, T): how much each place takes from each."""
    q, k, _, _, _, lse = attentions[layer]
    group = config.num_attention_heads // config.num_key_value_heads
    return look(q[:, head], k[:, head // group], lse[:, head])

assert np.allclose(weights(0, 0).sum(1), 1, atol=1e-5)
finger = np.mean([weights(1, 0)[6 + i, 1 + i] for i in range(5)])
print(f"layer 1, head 0, this word: {finger:.2f} of what > and the next letters read is the letter to write")
assert finger > 0.8

# %% figure
def draw(layer=1, head=0):
    """The map of one head, and the wheel of four pairs."""
    with course.figure(caption, width=8, height=4.4, columns=2) as (left, right):
        left.imshow(weights(layer, head), cmap="cividis", vmin=0, vmax=1)
        left.set_xticks(range(len(letters)), letters, fontsize=10)
        left.set_yticks(range(len(letters)), letters, fontsize=10)
        left.set(xlabel="is read", ylabel="reads", title=f"layer {layer}, head {head}")
        left.grid(visible=False)
        looks = zip([0, 2, 4, 6], ["#0072B2", "#D55E00", "#009E73", "#CC79A7"], "osD^")
        for radius, (j, colour, marker) in enumerate(looks, 1):  # a ring a pair, by its radius alone
            label = f"pair {j}: {np.degrees(np.arctan2(sin[1, j], cos[1, j])):.0f}° per place"
            right.plot(radius * cos[:7, j], radius * sin[:7, j], marker + "-", color=colour, label=label)
        right.set(aspect="equal", xlim=(-4.6, 4.6), ylim=(-4.6, 4.6), xticks=[0], yticks=[0])
        right.set(xlabel="first number of a pair", ylabel="its second number", title="places 0 to 6")
        right.legend(loc="lower center", fontsize=11)

caption = (
    "Left: one head on one word, a row for each place that reads, bright is 1. From > on it points at the "
    "letter to be written next. Right: what RoPE makes of the pair (1, 0) at places 0 to 6. Early pairs "
    "turn by a large angle per place, late ones by very little. Each pair is drawn on its own ring."
)
draw()

# %%
course.explore(draw, layer=[1, 0, 2, 3], head=[0, 1, 2, 3])

# %% [markdown]
r"""
**Open.** Predict, run, explain; there is no single answer. Does some head read the letter just before its own? And which head reads the first
place? Measure this for all heads, on this word and on another.
"""

# %% open llama_heads
### BEGIN SOLUTION
for layer in range(config.num_hidden_layers):
    for head in range(config.num_attention_heads):
        p = weights(layer, head)
        before, first = np.diagonal(p, -1).mean(), p[2:, 0].mean()
        if max(before, first) > 0.5:
            print(f"layer {layer}, head {head}: the place before {before:.2f}, the first {first:.2f}")
### END SOLUTION

# %% [markdown]
r"""
## A layer

Two additions to the stream: $x + \text{attention}(\text{norm}(x))$, then
$x + \text{down}(\text{silu}(\text{gate}(h))\odot\text{up}(h))$ with $h = \text{norm}(x)$
and $\text{silu}(z) = z/(1 + e^{-z})$. The function between the three linears is called **SwiGLU**: for each number, the gate says how much of
the value passes. **Fill the blank.**
"""

# %% exercise llama_swiglu
def swiglu(gate, up):
    """gate, up (M, F), what the two linears gave -> y (M, F), what down_proj gets."""
    ### BEGIN SOLUTION
    return gate / (1 + np.exp(-gate)) * up
    ### END SOLUTION

# %% check llama_swiglu
check("llama_swiglu", swiglu)

# %%
course.keep("llama_swiglu", swiglu)

# %% [markdown]
r"""
`Llama._layer` contains these two additions. Training and generation both call it.

**Do it.** Let the model answer: `ml.exact_match(model, pairs, return_answers=True)` gives the share of the pairs of `words.test` that it gets right, and its
answers. Print some of them, and the share of 100 verbs with its standard error.
"""

# %% open llama_answers
### BEGIN SOLUTION
score, answers = ml.exact_match(model, words.test[:100], return_answers=True)
for (prompt, right), answer in zip(words.test[:5], answers):
    print(f"{prompt:14} wanted {right[0]:14} got {answer}")
error = np.sqrt(score * (1 - score) / 100)
print(f"{score:.2f} of 100 held-out verbs in the third person, standard error {error:.2f}")
### END SOLUTION

# %% [markdown]
r"""
## What changed

- Seven linears per layer hold almost all numbers; adapters go there.
- Norm, attention, RoPE and SwiGLU are ops as in notebook 01; you have written the forward of each.
- One head's map on one word is only an example; do not explain a model with it.

Next: 03, what fine-tuning changes in these weights.
"""
