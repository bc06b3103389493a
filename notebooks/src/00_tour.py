# %% [markdown]
r"""
# 00 · A tour: six ways to teach a model the past tense

When you are done you can

- fine-tune a language model in five lines, and test it on words that it has never seen,
- say what each of six techniques trains, what it keeps for backward, and what it costs,
- read every table of this course: numbers, bytes, steps, exact match.

*Needs*: Python and a little NumPy. *Time*: 15 minutes to read, 25 to do.
*Papers*: one per technique; each has its own notebook, 04 to 08. *The one idea*: the weights stay as they are, and a
small change to them is learned.
"""

# %%
import numpy as np

import minilora as ml
from minilora.lab import rates, report
from minilora.methods import DEFAULT
from minilora.methods.base import Moment
from minilora.support import files
from minilora.text import tasks
from minilora_course import check, course

# %% [markdown]
r"""
## A model that has never seen a past tense

The embedded base is a small Llama, trained on three things about English words: *walk → walks*,
*walk → walking*, and how *walk* sounds. Each task has a tag, here `D`:
"""

# %%
model, words = ml.load_model("base"), ml.load_task("past")
print(f"{sum(a.size for a in model.params.values()):,} numbers, {len(words.test)} held-out verbs")
print(words.train[:3])
score, answers = ml.exact_match(model, words.test, return_answers=True)
for (prompt, right), answer in zip(words.test[:4], answers):
    print(f"{prompt:12} wanted {right[0]:12} got {answer}")
print(f"exact match of the base: {score:.3f}")

# %% [markdown]
r"""
Before any training we need numbers to compare with: what score does a rule get, without a model?
"""

# %%
for name in tasks.TASKS["past"].rules:
    print(f"{name:10} {tasks.score_rule(tasks.RULES[name], words.test):.3f}")

# %% [markdown]
r"""
## Five lines

LoRA adds the product of two thin matrices to each chosen weight, $W + s\,BA$, and trains only these two. At rank
$r$, the shapes are $W$ $(O, I)$, $B$ $(O, r)$ and $A$ $(r, I)$; $O$ outputs, $I$ inputs. **Predict.** Two weights
of 128 × 128 and 64 × 128 get LoRA of rank 4: how many numbers are trained?
"""

# %% exercise tour_count
trainable = None  # your number
### BEGIN SOLUTION
trainable = 4 * (128 + 128) + 4 * (64 + 128)
### END SOLUTION

# %% check tour_count
check("tour_count", trainable)

# %%
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=32, epochs=11)
tuned = ml.attach(model, "lora", rank=4)
history = ml.train(tuned, batches, steps=100, lr=2e-2, schedule="linear", warmup=10)
score, answers = ml.exact_match(tuned, words.test, return_answers=True)
print(f"loss {history.losses[0]:.2f} -> {history.losses[-1]:.2f}, exact match {score:.3f}")

# %% [markdown]
r"""
**Exact match** is the share of the verbs whose answer is right, letter by letter. Some verbs have two right forms (*dreamed*, *dreamt*): either
counts as right. **Fill the blank.**
"""

# %% exercise tour_exact
def exact(pairs, answers):
    """pairs: (prompt, tuple of the right forms) of each verb; answers: a word each -> the share."""
    ### BEGIN SOLUTION
    right = [answer in forms for (prompt, forms), answer in zip(pairs, answers)]
    return sum(right) / len(right)
    ### END SOLUTION

# %% check tour_exact
check("tour_exact", exact)

# %%
course.keep("tour_exact", exact)
assert np.isclose(course.mine("tour_exact")(words.test, answers), score)
pairs = list(zip(words.test, answers))
for (prompt, right), answer in pairs[:4] + [p for p in pairs if p[1] not in p[0][1]][:5]:
    print(f"{prompt:14} wanted {'/'.join(right):16} got {answer}")
assert ml.exact_match(model, words.test[:50]) == 0  # the base is as it was

# %% [markdown]
r"""
These are the first four answers, and then five wrong ones: the model has learned the rule and most of its spelling. It was not trained on
any of these verbs, in any form.

LoRA adds one line to the forward pass. The figure shows this line with its arrays, for the verb walk;
`minilora step --method lora` draws a whole step in this way, forward and backward.
"""

# %%
verb = ml.batches([("Dwalk>", ("walked",))], model.tokenizer, 1)[0]
line = Moment("what LoRA adds", "", "forward", "y = x @ W.T", place="layers.0.self_attn.q_proj")
caption = (
    "LoRA's line in the first layer's q_proj, after training: 12 tokens of Dwalk>walked, a row each. Red is above 0, blue below. "
    "W stays as it was. z = x Aᵀ has only 4 columns; with B it makes the small change beside x Wᵀ."
)
course.show(ml.trace(tuned, *verb).figure(line), caption)

# %% [markdown]
r"""
## One step

Training repeats this step many times. $dw$ is the gradient of the loss with respect to $w$. **Fill the blank.**
"""

# %% exercise tour_step
def step(w, dw, lr):
    """Gradient descent -> w', a new array."""
    ### BEGIN SOLUTION
    return w - lr * dw
    ### END SOLUTION

# %% check tour_step
check("tour_step", step)

# %% [markdown]
r"""
**Break it**: leave out the learning rate. The check expects exactly this mistake, and names it.
"""

# %% exercise tour_break
def broken(w, dw, lr):
    """The same, without the rate."""
    ### BEGIN SOLUTION
    return w - dw
    ### END SOLUTION

# %% check tour_break
check("tour_break", broken)

# %% [markdown]
r"""
## Six techniques

One file per technique states what it trains and how:
"""

# %%
for record in (ml.METHODS[name] for name in DEFAULT):
    print(f"{record.title:17} {record.formula:45} trains {', '.join(record.trains)}")

# %% [markdown]
r"""
Each technique gets the same 300 verbs and the same 60 steps, at the learning rate that was chosen for it on 300
other verbs. VeRA has rank 256, the others 4. The bytes come from notebook 10's comparison: a step on its largest batch.
"""

# %%
chosen = rates.chosen_for("past", rates.read())
compared = report.read_results(files.data_folder() / "results" / "compare")["methods"]
ranks = {"full": {}, "vera": {"rank": 256}}
runs = {}
for name in DEFAULT:
    tuned = ml.attach(model, name, **ranks.get(name, {"rank": 4}))
    history = ml.train(tuned, batches, steps=60, lr=chosen[name]["lr"], schedule="linear", warmup=6)
    runs[name] = tuned, history.losses, compared[name]["bytes"]
    assert sum(a.size for a in tuned.trainable.values()) == compared[name]["trainable"]

# %% figure
caption = (
    "Loss of each technique, in means of five steps, each at its own learning rate. In the legend "
    "what it trains, and what a step on the comparison's largest batch holds in all."
)
with course.figure(caption, width=10.5, height=4.8) as axes:
    for name, (tuned, losses, held) in runs.items():
        numbers = sum(a.size for a in tuned.trainable.values())
        size = sum(held.values()) / 2**20
        label = f"{ml.METHODS[name].title}: {numbers:,} numbers, {size:.1f} MiB"
        means = np.reshape(losses, (-1, 5)).mean(1)
        axes.plot(range(5, 61, 5), means, **course.look(name) | {"label": label})
    axes.set(yscale="log", xlabel="optimizer steps", ylabel="cross-entropy (nats per token)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=11.5)

# %%
print(f"{'bytes of':17} {'weights':>10} {'gradients':>10} {'optimizer':>10} {'kept':>11}   exact")
for name, (tuned, _, held) in runs.items():
    sizes = " ".join(f"{n:>{w},}" for n, w in zip(held.values(), (10, 10, 10, 11)))
    print(f"{ml.METHODS[name].title:17} {sizes}   {ml.exact_match(tuned, words.test[:200]):.2f}")

# %% [markdown]
r"""
**Open.** Predict, run, explain; there is no single answer. How many verbs does LoRA need? Train on a few of them, and on more, with the same
number of steps. Where does the score bend?
"""

# %% open tour_own
scores = {}  # number of verbs -> exact match
### BEGIN SOLUTION
for count in (10, 30, 100, 300):
    some = ml.batches(words.train[:count], model.tokenizer, batch_size=32, epochs=6000 // count)
    few = ml.attach(model, "lora", rank=4)
    ml.train(few, some, steps=60, lr=2e-2, schedule="linear", warmup=6)
    scores[count] = round(ml.exact_match(few, words.test[:200]), 2)
print(scores)
### END SOLUTION

# %% [markdown]
r"""
Three things to remember:

- The number of trained numbers differs by a factor of hundreds. The memory that is **kept for backward** hardly differs, and it is
  the largest part. Notebook 05 is about that.
- A few numbers are enough for a rule of English, since the base knows English words already.
- With one seed, 60 steps and 200 words, this is no ranking. `README.md` has three seeds, 150 steps and all the words.

From here: 01 the tape, 01b how to check a gradient, 02 a Llama, 02b its backward, 03 low rank, 04 to 08 one technique each, 09
kernels, 10 the fair comparison, 11 a real language model. Your functions are saved in a file of your own,
`my_minilora.py`, and later notebooks use them.

Next: 01, the tape that computes every gradient in this course.
"""
