# %% [markdown]
r"""
# 13 · What is forgotten, and how to measure it

When you are done you can

- measure what a model says and what it knows, and say which of the two has changed for an old skill,
- say which runs lie on the frontier between what is learnt and what is kept, and compare two techniques there,
- say which conclusions a few runs allow, and when they allow none.

*Needs*: notebook 04, and 10 for errors and intervals. *Time*: 30 minutes to read, 40 to do.
*Paper*: Biderman et al. 2024, [arXiv:2405.09673](https://arxiv.org/abs/2405.09673), section 4.3. *The one idea*: how much is
forgotten depends on the measure, and on how much was learnt.
"""

# %%
import numpy as np

import minilora as ml
from minilora.lab.statistics import estimate
from minilora_course import check, course

model, past = ml.load_model("base"), ml.load_task("past")
tokenizer = model.tokenizer

# %% [markdown]
r"""
## Two old skills

The base was trained on the third person (`Swalk>walks`) and the -ing form (`Gwalk>walking`), and never on the past tense
(`Dwalk>walked`). It will learn the past tense; what happens to the other two? With the adapter off nothing has changed, bit for
bit: $W$ is frozen. The question is what the model does with the adapter *on*.

Each question below has four answers, the right one first: one right spelling, two wrong ones, and the verb as it is.
"""

# %%
def spellings(word):
    """Ways to write the two forms; the last is the verb as it is."""
    return {
        "third": [word + "s", word + "es", word[:-1] + "ies", word],
        "ing": [word + "ing", word[:-1] + "ing", word + word[-1] + "ing", word],
    }

def questions(skill, count=100):
    """(prompt, four answers, the right one first) of the first held-out verbs where that is so."""
    found = []
    for prompt, (right, *more) in ml.load_task(skill).test:
        answers = spellings(prompt[1:-1])[skill]
        if not more and right in answers and len(set(answers)) == 4:
            found.append((prompt, [right] + [a for a in answers if a != right]))
    return found[:count]

OLD = {skill: questions(skill) for skill in ("third", "ing")}
for asked in OLD.values():
    print(*asked[:2], sep="\n")

# %% [markdown]
r"""
## What it says

The usual score: the model writes the most likely token, then the next, until it writes its **end** token. The answer is right if all of
it is right: **exact match**. An answer that continues where it should end is wrong; everything after the end token of the right answer is padding and does not count.

**Fill the blank.**
"""

# %% exercise forget_says
def forget_says(said, right, end):
    """said, right (N, T) tokens; each row of right has an answer, end, padding -> share."""
    ### BEGIN SOLUTION
    length = (right == end).argmax(axis=1) + 1
    counts = np.arange(right.shape[1]) < length[:, None]
    return ((said == right) | ~counts).all(axis=1).mean()
    ### END SOLUTION

# %% check forget_says
check("forget_says", forget_says)

# %% [markdown]
r"""
## What it knows

A model that says *walked* instead of *walks* may still know the spelling of *walks*. So offer it several answers, and see which one is the most likely.
An answer of tokens $a_1 \dots a_n$, including its end token, has the probability

$$\log P(a \mid \text{prompt}) = \sum_t \log p(a_t \mid \text{prompt}, a_1 \dots a_{t-1}).$$

**Predict.** We offer one right answer and *two* wrong ones. What share does a model reach that knows nothing? And with three wrong ones, as here?

**Fill the blanks**: the logarithm of an answer's probability, then the score. As in training, `targets[n, t]` is the token that
should come after place $t$, and -100 where no token counts (the prompt, the padding).
"""

# %% exercise forget_chance
chance_of_three = None  # your number: one right answer, two wrong ones
### BEGIN SOLUTION
chance_of_three = 1 / 3
### END SOLUTION

# %% check forget_chance
check("forget_chance", chance_of_three)

# %% exercise forget_likelihood
def forget_likelihood(logits, targets):
    """logits (N, T, V), targets (N, T), -100 where nothing counts -> log P of each row (N,)."""
    ### BEGIN SOLUTION
    logits = logits - logits.max(axis=-1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    counts = targets >= 0
    of_target = np.take_along_axis(logp, np.where(counts, targets, 0)[..., None], -1)[..., 0]
    return (of_target * counts).sum(axis=1)
    ### END SOLUTION

# %% check forget_likelihood
check("forget_likelihood", forget_likelihood)

# %% exercise forget_knows
def forget_knows(logp, right):
    """logp (N, K) of K answers to N questions, right (N,) the place of the right one -> share."""
    ### BEGIN SOLUTION
    return (logp.argmax(axis=1) == right).mean()
    ### END SOLUTION

# %% check forget_knows
check("forget_knows", forget_knows)

# %% [markdown]
r"""
**Break it.** Leave out the end token: the last target that counts in each row. **Predict** how this changes the score of the -ing form, before you
run the cell below. One of the four answers is the beginning of another.
"""

# %% exercise forget_break
def broken(logits, targets):
    """The same arguments; the token that ends the answer does not count."""
    ### BEGIN SOLUTION
    last = targets.shape[1] - 1 - (targets[:, ::-1] >= 0).argmax(axis=1)
    fewer = targets.copy()
    fewer[np.arange(len(targets)), last] = -100
    return forget_likelihood(logits, fewer)
    ### END SOLUTION

# %% check forget_break
check("forget_break", broken)

# %%
course.keep("forget_says", forget_says)
course.keep("forget_likelihood", forget_likelihood)
course.keep("forget_knows", forget_knows)
says_of, likelihood_of, knows_of = course.mine("forget_says", "forget_likelihood", "forget_knows")

def says(speaker, pairs):
    """Exact match by your function. pairs: (prompt, right answer)."""
    rows = [tokenizer.encode(answer) + [tokenizer.eos_id] for _, answer in pairs]
    prompts, T = [tokenizer.encode(prompt) for prompt, _ in pairs], max(map(len, rows))
    said = [list(out[len(p) :]) for p, out in zip(prompts, speaker.generate(prompts, T, stop=tokenizer.eos_id))]
    pad = [np.array([row + [tokenizer.pad_id] * (T - len(row)) for row in each]) for each in (said, rows)]
    return float(says_of(*pad, tokenizer.eos_id))

def knows(speaker, asked, end=True):
    """How often the right one of four answers is the likeliest; end: does its end token count?"""
    rows = [ml.batches([(prompt, a)], tokenizer, 1)[0] for prompt, answers in asked for a in answers]
    T = max(ids.shape[1] for ids, _ in rows)
    ids = np.full((len(rows), T), tokenizer.pad_id)
    targets = np.full((len(rows), T), -100)
    for n, (some, wanted) in enumerate(rows):
        length = some.shape[1]  # its last target is the end token
        ids[n, :length], targets[n, : length - (not end)] = some[0], wanted[0, : length - (not end)]
    logp = np.reshape(likelihood_of(np.float64(speaker.logits(ids)), targets), (len(asked), 4))
    return float(knows_of(logp, np.zeros(len(asked), int)))

# %%
for skill, asked in OLD.items():
    pairs = [(prompt, answers[0]) for prompt, answers in asked]
    score = says(model, pairs)
    assert np.isclose(score, ml.exact_match(model, [(p, (a,)) for p, a in pairs]))
    print(f"{skill:6} the base says {score:.0%} and knows {knows(model, asked):.0%}; "
          f"without the end token {knows(model, asked, end=False):.0%}")  # fmt: skip

# %% [markdown]
r"""
If the right form begins with the verb, the verb now wins: *walking* begins with *walk*, and a beginning is at least as likely as the whole. In both
measures the end token is a part of the answer.

## One run

LoRA of rank 4 on all linears learns 300 past tenses in 60 steps. **Predict**: does it still say *walking*? Does it still know it?
"""

# %%
def learn(method, lr, seed, words=past.train[:300], **how):
    """A model that has learnt the past tense."""
    batches = ml.batches(words, tokenizer, batch_size=32, epochs=7, seed=seed)
    tuned = ml.attach(model, method, seed=seed, **how)
    ml.train(tuned, batches, steps=60, lr=lr, schedule="linear", warmup=6)
    return tuned

HOW = {"lora": {"rank": 4, "targets": "all-linear"}, "full": {}}
NEW = [(prompt, right[0]) for prompt, right in past.test if len(right) == 1][:150]

def judged(speaker):
    """What is learnt; of the old skills what it says and what it knows, in the mean of the two."""
    old = [[(prompt, answers[0]) for prompt, answers in asked] for asked in OLD.values()]
    return [says(speaker, NEW), np.mean([says(speaker, p) for p in old]), np.mean([knows(speaker, a) for a in OLD.values()])]

tuned = learn("lora", 2e-3, 0, **HOW["lora"])
for prompt in ("Dlaugh>", "Slaugh>", "Glaugh>"):
    print(f"{prompt:8} the base: {model.generate_text(prompt):10} with the adapter: {tuned.generate_text(prompt)}")
print("learnt {:.0%}, of the old skills it says {:.0%} and knows {:.0%}".format(*judged(tuned)))

# %% [markdown]
r"""
## The frontier

A run at a lower rate forgets less, and learns less. So "A forgets less than B" means little if A also learnt less. Each run is a point: what is learnt, what is
kept. A run is **beaten** by another that is at least as good in both, and better in one. The runs that no other run beats are the **frontier**.

**Fill the blank.** Two runs with the same two numbers do not beat each other.
"""

# %% exercise forget_frontier
def forget_frontier(learnt, kept):
    """learnt (n,), kept (n,), both to be large -> (n,) True where no other point beats this one."""
    ### BEGIN SOLUTION
    better = learnt[:, None] >= learnt, kept[:, None] >= kept  # row: does it reach the column's?
    beats = better[0] & better[1] & ~(better[0].T & better[1].T)
    return ~beats.any(axis=0)
    ### END SOLUTION

# %% check forget_frontier
check("forget_frontier", forget_frontier)

# %% [markdown]
r"""
Now compare LoRA and full fine-tuning, each with four rates, each about 1.6 times the one before, and three seeds. Held equal: the base, the verbs, the batches of a seed, 60 steps, the
number of rates, the questions.

**Predict** before you run it: which technique's points lie on the frontier? And which one keeps more at *equal* learning?

We fix the rule now, before the run. In each seed a line joins the points of neighbouring rates; on this line we read what is kept where half of the verbs are learnt. The verdict is
on the difference, LoRA minus full, over three seeds. *LoRA keeps more* if its 95 % interval lies above 0, *full keeps more* if it lies below 0, else we *cannot tell*.
We also cannot tell if some line does not reach one half. Only runs on the other side would change the verdict.
"""

# %%
course.keep("forget_frontier", forget_frontier)
frontier = course.mine("forget_frontier")
RATES = {"lora": [8e-4, 1.3e-3, 2e-3, 3.2e-3], "full": [1e-4, 1.6e-4, 2.5e-4, 4e-4]}

def judged_each(method):
    """(rates, seeds, 3): learnt, says, knows."""
    return np.array([[judged(learn(method, lr, seed, **HOW[method])) for seed in range(3)] for lr in RATES[method]])

runs = {method: judged_each(method) for method in RATES}

every = np.concatenate([of.mean(axis=1) for of in runs.values()])  # a row a technique and rate
names = [(method, lr) for method, rates in RATES.items() for lr in rates]
on = {what: np.array(frontier(every[:, 0], every[:, 1 + i]), bool) for i, what in enumerate(("says", "knows"))}
for (method, lr), row, *where in zip(names, every, *on.values()):
    marks = [f"frontier of what it {what}" for what, here in zip(on, where) if here]
    end = " (an end of the rates)" if marks and lr in (RATES[method][0], RATES[method][-1]) else ""
    print(f"{method:5} {lr:<8g} learnt {row[0]:.2f}  says {row[1]:.2f}  knows {row[2]:.2f}  {', '.join(marks)}{end}")

# %% figure
def draw():
    with course.figure(caption, width=8.6, height=4.4, columns=2, sharey=True) as panels:
        for i, (axes, what) in enumerate(zip(panels, on)):
            for method, of in runs.items():
                mean, sd = of.mean(axis=1), of.std(axis=1, ddof=1)
                axes.errorbar(mean[:, 0], mean[:, 1 + i], sd[:, 1 + i], sd[:, 0], ms=7, elinewidth=1, **course.look(method))
            best = every[on[what]]
            axes.plot(best[:, 0], best[:, 1 + i], "o", ms=15, mfc="none", mec="#222222", label="frontier")
            axes.set(title=f"what it {what}", xlabel="learnt: past tense, exact match", xlim=(0, 1), ylim=(-0.03, 1.05))
        panels[0].set_ylabel("kept: mean of two old skills")
        panels[1].axhline(1 / 4, color="#595959", ls=":", lw=1.4, label="chance")
        panels[0].figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)

caption = (
    "A point is a rate: mean and standard deviation of three seeds; lines join neighbouring rates. Left the old skills by exact match, right by the likeliest of four "
    "answers. Rings: no other mean beats this one."
)
draw()

# %%
def kept_at(level, of, i):
    """What each seed keeps where it has learnt so much, between its points; NaN outside of them."""
    lines = [of[of[:, seed, 0].argsort(), seed].T for seed in range(3)]
    return np.array([np.interp(level, line[0], line[1 + i], np.nan, np.nan) for line in lines])

for i, what in enumerate(on):
    for level in (0.3, 0.5, 0.7):
        lora, full = (kept_at(level, of, i) for of in runs.values())
        e = estimate(lora - full)
        said = "cannot tell" if np.isnan(e.mean) else ("full keeps more", "cannot tell", "LoRA keeps more")[e.sign + 1]
        print(f"{what:5} learnt {level}: LoRA {lora.mean():.2f}, full {full.mean():.2f}, difference {e.mean:+.2f} ± {e.margin:.2f}  "
              f"{said}{', the level that was fixed' * (level == 0.5)}")  # fmt: skip

# %% [markdown]
r"""
The figure shows three things.

- **The measures disagree.** What the model says falls far below what it knows: much of what exact match calls forgotten is only another form of the answer. But what it knows
  falls, too. And the verdicts may differ: by the first measure the intervals at one half are clear, by the second they may contain 0.
- **The frontier has two ends, and both are trivial.** A run that learns nothing forgets nothing, so a low enough rate is always on it; and the run that learns most is on it, whatever
  it forgets. The part between the ends counts. If a ring is at an end of the rates, the cell prints that: the frontier continues there, but no further rate was tried.
- **The verdict holds for this setting.** Here the runs at equal learning do not show that "LoRA forgets less"; read your own verdict from the lines above. Biderman et al. write that LoRA and full fine-tuning seem to lie on one curve, for models of 7 billion numbers, code and
  mathematics. Our result is about one base of 0.7 million numbers, one rank, 60 steps and two skills whose prompts have the same form as the new one. It neither confirms nor
  contradicts theirs. Three seeds give wide intervals. Three levels with two measures are six comparisons of the same runs: only the one that we fixed before is a test.

**Do it.** Does it help to *rehearse*? Mix old words into the training: 60 of the third person and 60 of the -ing form, added to the 300 verbs, the same 60 steps. What is held equal, and
what is not? Which measure gains more? You know the cost without a run: the model sees the new words less often.
"""

# %% open forget_rehearse
### BEGIN SOLUTION
mixed = past.train[:300] + [pair for skill in OLD for pair in ml.load_task(skill).train[:60]]
rehearsed = np.array([judged(learn("lora", 2e-3, seed, mixed, **HOW["lora"])) for seed in range(3)])
for name, of in (("the past tense alone", runs["lora"][2]), ("with old words", rehearsed)):
    print(f"{name:21} learnt {estimate(of[:, 0]):.2f}  says {estimate(of[:, 1]):.2f}  knows {estimate(of[:, 2]):.2f}")
### END SOLUTION

# %% [markdown]
r"""
## Honest limits

- "What it knows" is a name for one test: the most likely of four answers that we chose. The score rises with easier wrong answers, and with fewer of them; chance is 1/4. A long answer has more
  factors, so it is less likely: here all four have nearly the same length.
- Old and new prompts differ by one letter. Knowledge that has nothing to do with the new task may be kept better, or worse.
- "Kept" is measured with the adapter on. Off, LoRA's base is what it was, bit for bit; after full fine-tuning that needs a copy of the base.
- LoRA here has one rank, one scaling and one placement. Set another rank in `HOW`, with its own rates: does the second verdict stay the same? We chose the rates after a first look at the same base and seeds, so that one half of the verbs lies between two of them.
- Between two rates we drew a straight line. If the frontier is curved outwards, the line is too low, and more so if the two points are far apart. So compare the gaps of both techniques before you
  believe a small difference.
- Both exact match and likelihood use 200 questions: a share near one half has a standard error of 4 points from the choice of the verbs alone.
"""
