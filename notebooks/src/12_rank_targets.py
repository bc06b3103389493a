# %% [markdown]
r"""
# 12 · Rank and targets: where a number helps

When you are done you can

- count what ranks and targets cost, and choose ranks so that two placements train equally many numbers,
- choose a rate from a grid, see when the grid is too short, and read a difference of three seeds,
- say how α and the rates act together under Adam, and which change of both changes nothing.

*Needs*: notebook 04, and 10 for the reading of intervals. *Time*: 25 minutes to read, 45 to do.
*Paper*: Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685), sections 4.1, 7.1 and 7.2.
*Symbols*: the table in notebook 03. *The one idea*: compare adapters that cost the same.
"""

# %%
import numpy as np

import minilora as ml
from minilora.lab.statistics import estimate
from minilora_course import check, course

model, words = ml.load_model("base"), ml.load_task("past")
shapes = {name: model.params[f"{name}.weight"].shape for name in model.config.linears()}
for name in list(shapes)[:7]:
    print(f"{name.split('.', 3)[3]:18} (O, I) = {shapes[name]}")

# %% [markdown]
r"""
## What a rank costs

LoRA of rank $r$ trains $r(I+O)$ numbers on a linear. You choose two things: the rank, and the **targets**, the linears that get an adapter. Both cost numbers. So
"all linears are better than q and v" at an *equal rank* is a comparison with five times as many numbers. The fair question is: where does a trained number help most?

**Predict.** LoRA of rank 10 on `q_proj` and `v_proj` trains 17,920 numbers in this base of 4 layers. Which rank on all 28 linears comes nearest to that?
"""

# %% exercise rank_budget
rank_on_all = None  # your number
### BEGIN SOLUTION
one_rank = sum(O + I for O, I in shapes.values())
rank_on_all = round(17_920 / one_rank)
### END SOLUTION

# %% check rank_budget
check("rank_budget", rank_on_all)

# %% [markdown]
r"""
**Fill the blank** for any linears: the whole rank whose count comes nearest to a budget. It is at least 1. It is at most the smallest side of all the
linears: a matrix has no higher rank than its smaller side.
"""

# %% exercise rank_of_budget
def rank_of_budget(shapes, budget):
    """shapes (n, 2), a row (O, I) for each linear, budget -> rank."""
    ### BEGIN SOLUTION
    return int(min(max(1, round(budget / shapes.sum())), shapes.min()))
    ### END SOLUTION

# %% check rank_of_budget
check("rank_of_budget", rank_of_budget)

# %%
course.keep("rank_of_budget", rank_of_budget)
rank_for = course.mine("rank_of_budget")
PLACES = {"q and v": ("q_proj", "v_proj"), "the MLP": ("gate_proj", "up_proj", "down_proj"), "all linears": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")}

def rank_in(place, budget):
    """Its rank at a budget."""
    return int(rank_for(np.array([s for name, s in shapes.items() if name.endswith(PLACES[place])]), budget))

def numbers(place, rank):
    """What ml.attach really trains."""
    return sum(a.size for a in ml.attach(model, "lora", rank=rank, targets=PLACES[place]).trainable.values())

ranks = {place: rank_in(place, 18_000) for place in PLACES}
for place, rank in ranks.items():
    print(f"{place:12} rank {rank:2}: {numbers(place, rank):,} numbers")
counts = [numbers(place, rank) for place, rank in ranks.items()]
assert max(counts) < 1.1 * min(counts)

# %% [markdown]
r"""
## Each at its own rate

A comparison is not fair if a placement runs at the best rate of another one. So each placement gets the best rate of a grid, chosen on words that are not used for the score.
**Fill the blank.** `scores` has a row for each rate, from small to large, and a column for each seed. Which rate is the best? The best is the rate with the highest **mean over its seeds**.
And is it the first or the last one of the grid? Then a better one may lie outside the grid, and a report must say so.
"""

# %% exercise rank_choose
def rank_choose(scores):
    """scores (rates, seeds) -> the place of the best rate, counted from 0, and True if it is at an end."""
    ### BEGIN SOLUTION
    best = int(scores.mean(axis=1).argmax())
    return best, best in (0, len(scores) - 1)
    ### END SOLUTION

# %% check rank_choose
check("rank_choose", rank_choose)

# %%
course.keep("rank_choose", rank_choose)
choose = course.mine("rank_choose")

def score(place, rank, lr, seed, on=words.test):
    """Exact match after 80 steps of 16 verbs, in percent."""
    batches = ml.batches(words.train[:300], model.tokenizer, batch_size=16, epochs=5, seed=seed)
    tuned = ml.attach(model, "lora", rank=rank, targets=PLACES[place], seed=seed)
    ml.train(tuned, batches, steps=80, lr=lr, schedule="linear", warmup=8)
    return 100 * ml.exact_match(tuned, on)

grid, best = [0.0025, 0.01, 0.04], {}
for place, rank in ranks.items():
    found = np.array([[score(place, rank, lr, seed, words.train[300:600]) for seed in (8, 9)] for lr in grid])
    at, is_end = choose(found)
    at = int(at)
    best[place] = grid[at]
    print(f"{place:12} " + ", ".join(f"{lr:g}: {row.mean():.1f} %" for lr, row in zip(grid, found)) + f"; best {grid[at]:g}" + (" (an end of the grid)" if is_end else ""))

# %% [markdown]
r"""
## Where a number helps

Now compare three placements at about 18,000 numbers, and two of them with fewer and with more. **Predict** the order of the three, and the gain from twice the rank.

*Held equal*: the 300 verbs, the batches of each seed, 80 steps of 16 verbs, $\alpha = 2r$, and so $s = 2$; at one budget the trained numbers, up to a tenth. Each placement has its own rate, chosen at 18,000 numbers
and used for its other ranks, too. *The measure*: exact match on 611 held-out verbs, the difference seed by seed, three seeds. *The rule, fixed before the run*: a placement is better if the
95 % interval of the difference lies on its side of 0; else we **cannot tell**. An interval on the other side gives the opposite verdict. With three seeds the interval is 2.5 standard deviations to each side: it shows only large differences.
"""

# %% figure
budgets = {"q and v": (1_800, 9_000, 18_000, 36_000), "the MLP": (18_000,), "all linears": (9_000, 18_000, 36_000)}
scores = {(place, budget): np.array([score(place, rank_in(place, budget), best[place], seed) for seed in range(3)])
          for place in budgets for budget in budgets[place]}  # fmt: skip
caption = (
    "Exact match on held-out verbs over the trained numbers: means of three seeds, with the range. One above another: equal numbers, up to a tenth."
)
with course.figure(caption, width=7, height=4.3) as axes:
    for place, colour, marker in zip(PLACES, ("#0072B2", "#009E73", "#D55E00"), "o^s"):
        at = [numbers(place, rank_in(place, budget)) for budget in budgets[place]]
        of_place = np.array([scores[place, budget] for budget in budgets[place]])
        means = of_place.mean(1)
        axes.errorbar(at, means, [means - of_place.min(1), of_place.max(1) - means], color=colour, marker=marker, capsize=4, label=place)
    axes.set(xscale="log", xlabel="trained numbers", ylabel="exact match (%)", ylim=(0, 100))
    axes.set_xticks([2_000, 5_000, 10_000, 20_000, 40_000], ["2,000", "5,000", "10,000", "20,000", "40,000"])
    axes.minorticks_off()
    axes.legend(loc="lower right")

# %%
def verdict(one, two):
    """Which of two is better, by the interval of the difference."""
    e = estimate(scores[one] - scores[two])
    names = [f"{place} at {budget:,}" for place, budget in (one, two)]
    said = {1: f"{names[0]} is better", -1: f"{names[1]} is better", 0: "cannot tell"}[e.sign]
    print(f"{names[0]} less {names[1]}: {e.mean:+.1f} points, interval {e.mean - e.margin:+.1f} to {e.mean + e.margin:+.1f}: {said}")

print("equal numbers")
for place in ("q and v", "the MLP"):
    verdict(("all linears", 18_000), (place, 18_000))
verdict(("q and v", 18_000), ("the MLP", 18_000))
for budget in (9_000, 36_000):
    verdict(("all linears", budget), ("q and v", budget))
print("twice the numbers")
for place in ("q and v", "all linears"):
    verdict((place, 36_000), (place, 18_000))
print("fewer numbers, elsewhere")
verdict(("all linears", 9_000), ("q and v", 36_000))

# %% [markdown]
r"""
The run printed in this notebook shows three things. *At equal numbers* (points one above another): all linears are better than q and v at 9,000; at 18,000 and 36,000 we cannot tell, though the means have the
same order. All linears are better than the MLP. *Along a line*: we cannot tell what twice the rank gains, for either placement. *Across the lines*: 9,000 numbers on all linears are better than 36,000 on q and v.
So it helped more to adapt further linears than to give the adapted ones a higher rank. Hu et al. asked the same question for GPT-3, with 18 million numbers in the attention only (section 7.1): several kinds of
weights at a low rank were better than one kind at a high rank.

## α beside the rate

$\alpha$ acts only through $s = \alpha/r$. If you double $\alpha$, which rates give *exactly* the same training as before? Adam moves each number by about its rate, however large the gradient is. So think of the product
$s\,BA$: what must $B$ be, and how far may it move, if $s$ is $c$ times as large?

**Fill the blank.** There is more than one right answer. The check trains twice for five steps: once with $s$ and the given $A$, $B$ and rates, and once with $c\,s$ and what you return. $\Delta W$ must be the same, from $B = 0$ and from another $B$.
"""

# %% exercise rank_twin
def rank_twin(c, A, B, rate_A, rate_B):
    """s is c times as large -> A, B, rate_A, rate_B with which s B A trains as before."""
    ### BEGIN SOLUTION
    return A, B / c, rate_A, rate_B / c
    ### END SOLUTION

# %% check rank_twin
check("rank_twin", rank_twin)

# %% [markdown]
r"""
**Break it.** A rule of thumb says: with $\alpha$ four times as large and a quarter of the learning rate, the training is the same. Write this rule, for any $c$: divide both rates by $c$, and leave $A$ and $B$ as they are.
**Predict**: from $B = 0$, after how many steps does $\Delta W$ first differ?
"""

# %% exercise rank_break
def broken(c, A, B, rate_A, rate_B):
    """The same arguments, the rule of thumb."""
    ### BEGIN SOLUTION
    return A, B, rate_A / c, rate_B / c
    ### END SOLUTION

# %% check rank_break
check("rank_break", broken)

# %% [markdown]
r"""
Now try it on the model. LoRA+ has a ratio of $B$'s rate to $A$'s (notebook 08). **Predict** which of three runs with $\alpha = 32$ repeats the run with $\alpha = 8$ at the rate 0.01: ratio 1/4 at the rate 0.01;
a quarter of the rate for both; or the same rate.
"""

# %%
batches = ml.batches(words.train[:300], model.tokenizer, batch_size=16, epochs=3)

def losses(alpha, lr, ratio=1.0):
    """Of 40 steps; the ratio is B's rate over A's."""
    tuned = ml.attach(model, "lora_plus", rank=4, alpha=alpha, ratio=ratio)
    return np.array(ml.train(tuned, batches, steps=40, lr=lr).losses)

first = losses(8, 0.01)
runs = {"B's a quarter": losses(32, 0.01, 1 / 4), "both a quarter": losses(32, 0.0025), "both as before": losses(32, 0.01)}
print(f"{'α = 32, and of the rates':26}{'step 2':>9}{'step 3':>9}{'worst':>9}   loss apart from that with α = 8, as a share")
for name, run in runs.items():
    apart = np.abs(run / first - 1)
    print(f"{name:26}" + "".join(f"{100 * a:{n}.2f}%" for a, n in zip((apart[1], apart[2], apart.max()), (7, 8, 8))))
assert np.abs(runs["B's a quarter"] / first - 1)[:10].max() < 1e-3

# %% [markdown]
r"""
So a larger $\alpha$ *is* a larger rate of $B$, and nothing else, as long as Adam's ε, weight decay and clipping have no effect. It is also LoRA+'s ratio. The rule "$\alpha$ up, rate down" lowers $A$'s rate too, although only $B$'s was too
large. From $B = 0$ the first step hides this: $A$ has no gradient then, so its rate does not matter.

When you change the rank with $\alpha$ fixed, $s$ falls as $1/r$: a comparison of ranks is then also a comparison of $B$'s rates. With $\alpha = 2r$, as above, $s$ is constant; rsLoRA takes
$s = \alpha/\sqrt r$. To say which of them is fair, you need a rate for each rank.

**Open.** Predict, run, explain; there is no single answer. *Where in depth?* Adapt all linears of only the first two, or only the last two, of the four layers, with rank 4: this gives as many numbers as rank 2
on all four layers. (`ml.attach(…, layers_to_transform=[0, 1])`.) Which result would show that a number helps more in late layers? Is one rate for all three fair?
"""

# %% open rank_depth
in_layers = {"first two": ([0, 1], 4), "last two": ([2, 3], 4), "all four": ([0, 1, 2, 3], 2)}
### BEGIN SOLUTION
for name, (layers, rank) in in_layers.items():
    found = []
    for seed in range(3):
        batches = ml.batches(words.train[:300], model.tokenizer, batch_size=16, epochs=5, seed=seed)
        tuned = ml.attach(model, "lora", rank=rank, targets=PLACES["all linears"], layers_to_transform=layers, seed=seed)
        ml.train(tuned, batches, steps=80, lr=best["all linears"], schedule="linear", warmup=8)
        found.append(100 * ml.exact_match(tuned, words.test))
    print(f"{name:10} {sum(a.size for a in tuned.trainable.values()):,} numbers: " + " ".join(f"{f:.1f}" for f in found))
### END SOLUTION

# %% [markdown]
r"""
## Honest limits

- This is one base of 4 layers, one task and 80 steps: with more steps the placements with few numbers may catch up. It does not show where a number helps in a large model.
- The grid has three rates, a factor of 4 apart: a placement may lose a point or two because its best rate lies between two of them. The rate was chosen at one rank, with two seeds.
- We read eight intervals of 95 %: about one in twenty such intervals is wrong by chance. Three seeds show only large differences. *Cannot tell* does not mean *equal*: it means that both signs are possible.
- The MLP has three linears, adapted together; we did not ask which of the seven kinds of linears is best by itself.
- Equal numbers are not equal bytes or equal time: an adapter on every linear keeps more for backward, and makes a step longer (notebook 10).
"""
