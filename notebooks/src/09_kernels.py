# %% [markdown]
r"""
# 09 · Kernels: from three loops to the register tile

When you are done you can

- say how fast a product could be on your machine, and what it waits for if it is slower,
- go from three loops to a tile in registers, and say at each step which memory traffic becomes less,
- time two pieces of code in a way that gives a reliable result.

*Needs*: a matrix product and nested loops; the roofline is explained here. *Time*: 30 minutes to read, 65 to do.
*Sources*: Goto and van de Geijn 2008, [doi:10.1145/1356052.1356053](https://doi.org/10.1145/1356052.1356053);
Williams et al. 2009, [doi:10.1145/1498765.1498785](https://doi.org/10.1145/1498765.1498785) (roofline).
*The one idea*: a processor multiplies numbers faster than memory delivers them, so the memory traffic of a kernel decides its speed.
"""

# %%
import numpy as np

from minilora.fast import kernels
from minilora.fast.ladder import LADDER
from minilora.fast.tile import plain_tile
from minilora.support import files
from minilora_course import check, course

# %% [markdown]
r"""
## One product, four ways

Linears, forward and backward, are products $y = xw$ with $y_{ij} = \sum_k x_{ik} w_{kj}$: $2MKN$ operations, in any
implementation. The package has four implementations, or ways, compiled by Numba. They give the same numbers, up to rounding:
"""

# %%
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in [(70, 90), (90, 110)])
for name, product in LADDER.items():
    assert np.allclose(product(x, w), x @ w, atol=1e-4)
    print(f"{name:13} {product.__doc__.splitlines()[0]}")

# %% [markdown]
r"""
**Three loops** runs $i$, $j$, $k$ in the order of the formula. **Reordered** runs $i$, $k$, $j$. **Tiled**
computes blocks of columns, and does eight $k$ each time it reads and writes $y$. **Register tile** is the one that minilora uses.

A record has the speed of each on one machine; `python -m studies.speed ladder`, in the repository, makes a record of yours. Below are
the rates for a product of 256 columns. One GFLOP/s is $10^9$ operations a second, and BLAS is the library that NumPy calls:
"""

# %%
record = files.read_json(files.data_folder() / "results" / "kernels" / "bench.json")
about, ladder = record["machine"], record["ladder"]
print(about["processor"], "· numba", about["versions"]["numba"], "· numpy", about["versions"]["numpy"])
big = ladder["products"][-1]
speed = {way: big["flops"] / seconds / 1e9 for way, seconds in big["seconds"].items()}
for way, rate in speed.items():
    print(f"{way:13} {rate:6.1f} GFLOP/s   {rate / speed['three loops']:5.1f} times as fast")
ways = ["three loops", "reordered", "tiled", "register tile"]
assert sorted(ways, key=speed.get) == ways

# %% [markdown]
r"""
## What the order changes

Memory is read in **lines** of 64 bytes, 16 numbers. A cache holds the most recently used lines. **Fill the blank**: a toy cache,
which counts how often a line has to be fetched. A dict keeps the order in which its keys were inserted.
"""

# %% exercise kernel_fetched
def kernel_fetched(places, lines):
    """places: of the numbers, a list or an array; lines: how many lines the cache holds
    -> how many lines are fetched."""
    ### BEGIN SOLUTION
    cache, count = {}, 0  # a dict keeps the order of its keys
    for place in places:
        line = place // 16
        count += line not in cache
        cache.pop(line, None)
        cache[line] = None  # the newest
        if len(cache) > lines:
            del cache[next(iter(cache))]  # the least recently used one
    return count
    ### END SOLUTION

# %% check kernel_fetched
check("kernel_fetched", kernel_fetched)

# %%
course.keep("kernel_fetched", kernel_fetched)
fetched = course.mine("kernel_fetched")
n = 48  # x, w and y are n by n, one behind the other
X, W, Y = (np.arange(n * n).reshape(n, n) + at * n * n for at in range(3))
places = [(X[i, k], W[k, j], Y[i, j]) for i in range(n) for k in range(n) for j in range(n)]
cube = np.array(places).reshape(n, n, n, 3)  # i, k, j
orders = {
    "three loops": cube.transpose(0, 2, 1, 3),  # i, j, k
    "reordered": cube,
    "in tiles": cube.reshape(6, 8, n, 3, 16, 3).transpose(0, 3, 2, 1, 4, 5),  # of 8 x 16
}
moved = {name: fetched(order.ravel().tolist(), 32) for name, order in orders.items()}
for name, lines in moved.items():
    print(f"{name:12} {lines:7,} lines fetched for {n**3:,} multiplications")
assert moved["three loops"] > 10 * moved["reordered"] > 40 * moved["in tiles"]

# %% [markdown]
r"""
Down a column of $w$ each number is in another line: only one of the 16 fetched numbers is used, and the line is evicted
before its other numbers are needed. Along a row all 16 are used. In tiles a line of $w$ is used for eight rows of $x$.

## The roofline, in plain words

Think of a kitchen. The cook can cut a certain number of vegetables per minute, and no more: the **peak**, in operations per second. A cart can bring
a certain number of baskets per minute: the **bandwidth**, in bytes per second. The number of vegetables in a basket is the **intensity**:
operations for each byte that must move.

- Few vegetables per basket: the cook waits for the cart. The rate is bandwidth times intensity. With logarithmic axes this
  is a sloped line.
- Many vegetables per basket: the cart waits for the cook. The rate is the peak: a flat line.
- The lower of the two is the **roof**. A kernel far below it wastes time on something else. A kernel at the roof
  cannot be made faster, except by a higher intensity: by fetching fewer bytes for the same operations.

The sloped part of the roof is for numbers that come from memory. Numbers that are still in a cache arrive faster, so a measured point
can lie above the slope.

**Predict.** $x$ and $w$ are 600 × 600 in float32. What is the intensity of $xw$, if each number moves once?
"""

# %% exercise kernel_intensity
intensity = None  # your number
### BEGIN SOLUTION
intensity = 2 * 600**3 / (4 * 3 * 600**2)
### END SOLUTION

# %% check kernel_intensity
check("kernel_intensity", intensity)

# %% [markdown]
r"""
A thin product has a lower intensity. LoRA's $z = xA^\top$ with rank 4 computes four columns, and has to read all of $x$.
**Fill the blank**: what is the highest rate of a machine at a given intensity?
"""

# %% exercise kernel_roof
def kernel_roof(peak, bandwidth, intensity):
    """Operations a second, bytes a second, operations a byte -> operations a second."""
    ### BEGIN SOLUTION
    return np.minimum(peak, bandwidth * intensity)
    ### END SOLUTION

# %% check kernel_roof
check("kernel_roof", kernel_roof)

# %% figure
LOOKS = {"three loops": ("#7F7F7F", "v"), "reordered": ("#E69F00", "s"), "tiled": ("#CC79A7", "D"),
         "register tile": ("#0072B2", "o"), "BLAS": ("#222222", "P")}  # fmt: skip

def draw(threads=1):
    """The roofs for some threads; the ways on one, or the last two on all."""
    peak = ladder["peaks"][str(threads)]
    with course.figure(caption, width=7.5, height=5.6) as axes:
        at = np.geomspace(1, 300, 300)
        axes.plot(at, np.minimum(peak["flops"], peak["bandwidth"] * at) / 1e9, color="#AAAAAA", lw=5)
        for way, (colour, marker) in LOOKS.items():
            shown = ladder["products"] if threads == 1 else [big] * (way in ladder["together"])
            taken = [p["seconds"][way] if threads == 1 else ladder["together"][way] for p in shown]
            rates = [p["flops"] / s / 1e9 for p, s in zip(shown, taken)]
            axes.plot([p["flops"] / p["bytes"] for p in shown], rates, color=colour, marker=marker, label=way)
        axes.set(xscale="log", yscale="log", ylim=(1, 500), ylabel="GFLOP/s",
                 xlabel="intensity: operations for each byte that must move")  # fmt: skip
        axes.figure.legend(loc="outside lower center", ncols=3, fontsize=12)

roof = ladder["peaks"]["1"]
shares = {way: [p["flops"] / p["seconds"][way] / min(roof["flops"], roof["bandwidth"] * p["flops"] / p["bytes"])
                for p in ladder["products"]] for way in LOOKS}  # fmt: skip
above = [way for way, share in shares.items() if share[0] > 1]
caption = (
    "What each way reaches, against what the machine allows (grey): memory on the slope, the processor on the "
    "flat. The products have 4, 16, 64 and 256 columns. The three ways in plain loops stay below the tile and BLAS. "
    f"Above the slope, at 4 columns: {', '.join(above) or 'none'}; there a cache still held a part of x."
)
draw()

# %%
for way, share in shares.items():
    print(f"{way:13} of the roof, by columns: " + "  ".join(f"{n:4.0%}" for n in share))
assert np.allclose(shares["register tile"][1:], shares["BLAS"][1:], rtol=0.15)
course.explore(draw, threads=[1, ladder["threads"]])

# %% [markdown]
r"""
## The tile in registers

Even the nearest caches are slow compared with registers. Count the numbers that a step moves between the two:

| way | multiply-adds | numbers loaded and stored | per multiply-add |
|---|---|---|---|
| three loops | 1 | x, w | 2 |
| reordered | 1 | w, y, y again | 3, but 16 at a time |
| tiled | 8 | 8 of w, y, y again | 1.25, 16 at a time |
| register tile | 8 · 48 | 8 of x, 48 of w | 0.15, w's 16 at a time |

The register tile keeps a block of $y$, 8 by 48, in 24 vector registers during the whole loop over $k$. Each step adds
an **outer product**: a column of $x$ times a row of $w$.

**Fill the blank.** Row $k$ of $a$ holds the tile's eight numbers of $x$ for step $k$; row $k$ of $b$ holds its numbers of $w$.
"""

# %% exercise kernel_tile
def kernel_tile(a, b):
    """a (K, R), b (K, C) -> y (R, C)."""
    ### BEGIN SOLUTION
    y = np.zeros((a.shape[1], b.shape[1]))
    for k in range(len(a)):
        y += np.outer(a[k], b[k])
    return y
    ### END SOLUTION

# %% check kernel_tile
check("kernel_tile", kernel_tile)

# %% [markdown]
r"""
**Break it**: write `=` instead of `+=` in every step, so that only the last outer product is left. A kernel that does not keep its sum does that.
"""

# %% exercise kernel_break
def broken(a, b):
    """The same arguments, one slip."""
    ### BEGIN SOLUTION
    for k in range(len(a)):
        y = np.outer(a[k], b[k])
    return y
    ### END SOLUTION

# %% check kernel_break
check("kernel_break", broken)

# %% [markdown]
r"""
## Blocks, and packing for the cache

**Fill the blank**: a whole product, one block of $y$ after the other, each computed by your tile. The last blocks may be smaller.
The cell below it has the package's way, which adds packing.

A tile reads 48 neighbouring numbers of a row of $w$, then those of the next row, which is a whole row farther in memory:
another line, often another page. So the kernel first copies 48 columns into a small **panel**, in which the rows
follow each other directly. Every tile of rows uses this copy. And $k$ is cut into blocks, so that the panel stays in a near cache.
"""

# %% exercise kernel_blocked
def kernel_blocked(x, w, height, width):
    """x (M, K), w (K, N); a block of y is height by width -> y (M, N)."""
    ### BEGIN SOLUTION
    y = np.zeros((len(x), w.shape[1]))
    for i in range(0, len(x), height):
        for j in range(0, w.shape[1], width):
            rows, columns = x[i : i + height], w[:, j : j + width]
            y[i : i + height, j : j + width] = kernel_tile(rows.T, columns)
    return y
    ### END SOLUTION

# %% check kernel_blocked
check("kernel_blocked", kernel_blocked)

# %%
for way, adds, numbers in [("three loops", 1, 2), ("reordered", 1, 3), ("tiled", 8, 10), ("tile", 384, 56)]:
    print(f"{way:12} {numbers / adds:.2f} numbers moved a multiply-add")
assert about["kernels"]["tile"] == "8 x 48" and 8 * 48 == 384 and 384 / 16 == 24
course.keep("kernel_tile", kernel_tile)
course.keep("kernel_blocked", kernel_blocked)
blocked = course.mine("kernel_blocked")
w = rng.standard_normal((576, 1024), dtype=np.float32)
x, y = rng.standard_normal((64, 576), dtype=np.float32), np.zeros((64, 1024), np.float32)
for k in range(0, 576, 288):
    for j in range(0, 1024, 48):
        panel = w[k : k + 288, j : j + 48].copy()  # packed
        for i in range(0, 64, 8):
            plain_tile(x, i, k, panel, 0, 0, y, i, j, 288, 8, panel.shape[1], k > 0)
assert np.allclose(y, x @ w, atol=1e-3) and np.allclose(y, blocked(x, w, 8, 48), atol=1e-3)
print("your blocks, the package's tile and NumPy agree on 64 x 576 x 1024")
print(f"from row to row: {w.strides[0]:,} bytes in w, {48 * 4} in a panel; a panel has {288 * 48 * 4:,}")

# %% [markdown]
r"""
## Two threads

Each thread computes its own rectangle of $y$, so no thread waits for the sums of another, and each number is summed
in the same order by any thread. So one thread and two give the same bits:

**Do it.** `kernels.matmul_nn(x, w)` is the register tile's product. Compute it for the two halves of $x$'s rows, join the results, and compare them with the whole product, bit for bit. Then print the
record's `ladder["together"]` beside `big["seconds"]`: how many times as fast are two threads?
"""

# %% open kernel_threads
### BEGIN SOLUTION
halves = [kernels.matmul_nn(part, w) for part in (x[:32], x[32:])]
assert np.array_equal(kernels.matmul_nn(x, w), np.concatenate(halves))
for way, seconds in ladder["together"].items():
    gain = big["seconds"][way] / seconds
    print(f"{way:13} {big['flops'] / seconds / 1e9:4.0f} GFLOP/s on {ladder['threads']} threads, {gain:.2f} times one")
### END SOLUTION

# %% [markdown]
r"""
## Fusing: do not write what you read next

An adapted linear is $xW^\top + zB^\top$. In separate kernels, $y$ is written, read and written again; in one kernel each task
adds the second product while its rectangle is still in a near cache. Attention gains more: its scores, $T$ by $T$ for each
head, are never all in memory. The kernel computes the scores of a block of 32 queries, their softmax and their output, then takes the next block.

**Do it.** Write attention with whole scores, as in notebook 02, with the causal mask and the factor $1/\sqrt{32}$, for the $q$ given (200 tokens, 2 heads of 32), which
is also $k$ and $v$. Compare with the first output of `kernels.attention_forward(q, k, v, spans)`. A row of `spans` says where a sequence's queries
begin and end, and then its keys: here `np.array([[0, 200, 0, 200]])`. Print the record's `ladder["fused"]`: how much faster is one kernel than separate ones?
"""

# %% open kernel_fused
q = rng.standard_normal((200, 2, 32), dtype=np.float32)
### BEGIN SOLUTION
scores = np.where(np.tri(200), np.einsum("ihd,jhd->hij", q, q) / np.sqrt(32), -np.inf)
weights = np.exp(scores - scores.max(-1, keepdims=True))
whole = np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), q)
spans = np.array([[0, 200, 0, 200]])  # one sequence: its queries, its keys
assert np.allclose(kernels.attention_forward(q, q, q, spans)[0], whole, atol=1e-5)
print(f"4,096 tokens: scores of a head {4096**2 * 4:,} bytes, of a block of 32 queries {4096 * 32 * 4:,}")
for work, taken in ladder["fused"].items():
    print(f"{work:15} {taken['in one'] * 1e3:6.1f} ms in one, {taken['in pieces'] * 1e3:6.1f} in pieces")
### END SOLUTION

# %% [markdown]
r"""
## Memory that is given back

A new array has no memory yet. The operating system finds a page, and clears it, when the program first writes to it: a **page
fault**. A large array that is freed goes back to the system, and the next one causes page faults again. minilora tells the C library to
keep the freed memory. The times to make, fill and free 64 MB:
"""

# %%
for way, taken in ladder["pages"].items():
    print(f"{way:12} {taken['seconds'] * 1e3:5.1f} ms, {taken['faults']:8,.0f} page faults")
taken = [ladder["pages"][way]["seconds"] for way in ("kept", "large pages", "small pages")]
assert taken == sorted(taken)

# %% [markdown]
r"""
## Timing honestly

Other programs always use the machine too. So warm up first (the first call compiles). Let the two ways take **turns**, so that other work
disturbs both equally. Divide the times *within* a round, and judge by the **median** of these ratios. Check that the results agree
before you compare their times. **Fill the blank**: you get the seconds of two ways, round by round.
"""

# %% exercise kernel_ratio
def kernel_ratio(mine, theirs):
    """Seconds (rounds,) of two ways -> how many times as fast mine is."""
    ### BEGIN SOLUTION
    return np.median(theirs / mine)
    ### END SOLUTION

# %% check kernel_ratio
check("kernel_ratio", kernel_ratio)

# %%
calls = {name: lambda product=product: product(x, w) for name, product in LADDER.items()}
course.race({**calls, "BLAS": lambda: x @ w}, flops=2 * x.size * 1024)

# %% [markdown]
r"""
## What changed, and what did not

- All four ways do the same operations; the difference is the memory traffic.
- Tiling with plain Numba loops gains at 256 columns and loses at few columns, in the figure above: the compiler keeps no array
  in registers. The register tile is written with vector instructions, in `minilora/fast/tile.py`.
- The record is of one processor with vectors of 16 numbers; on others the tile is smaller. With 16 columns and more the
  tile and BLAS reach about the same share of the roof. On this record minilora gains by thin products, by fusing
  and by keeping freed memory.

## Where the milliseconds go

One product is not a training step. The **ledger of time** is for a whole step: each op's forward and backward, AdamW,
and the Python between them. You know all ideas that it needs:

- The seconds: two of four steps run with a timer around each op, two without. So the timers' own time is known, and is
  subtracted. The rows add up to a step.
- The work: $2MKN$ for a product. The bytes of each input and output array count once.
- The roof: your `kernel_roof`, for each call. `roof, ms` is the time at the roof on this machine. A row without one
  computes nothing, or its work is not in the table of `minilora/bench/operations.py`.

A long row near its roof cannot become faster, except with less work or fewer bytes. To make a step faster, begin with a long row
far below its roof. A row above its roof (more than 100 %) got its numbers from a cache: the roof is that of memory.

**Predict** before you run it: LoRA on q and v, 512 rows. Which row is the longest? Which long row is farthest below its roof?
Then `rows=8`: which rows take as long as before? That is the cost of calling more than 100 ops from Python.
"""

# %%
course.where("base", "lora", rows=512)
