"""The techniques: the battery that each must pass, then what the mathematics of each says."""

import hashlib

import battery
import numpy as np
import pytest
from battery import BATCHES, base, copies, rel, same_bits, site, tune

import minilora as ml
from minilora import ops
from minilora.cli import main
from minilora.engine import Op
from minilora.methods import lora_fa, vera
from minilora.ops.dropout import mask
from minilora.tuning.train import gradients

NAMES = list(ml.METHODS)
each = pytest.mark.parametrize("name", NAMES)


# ---------------------------------------- the battery


@pytest.mark.smoke
@each
def test_gradients_against_finite_differences(name):
    battery.check_gradients(name)


@each
def test_options_are_explained_where_a_user_looks(name, capsys):
    """help(ml.attach) and minilora train --method NAME --help: option, default, meaning, unit."""
    record = ml.METHODS[name]
    assert record.about.keys() == record.options.keys()
    with pytest.raises(SystemExit):
        main(["train", "--method", name, "--help"])
    for place in (ml.attach.__doc__, capsys.readouterr().out):
        assert f"{name}: " in place
        for option, default in record.options.items():
            assert f"{option} ({default}): {record.about[option]}" in place
        if "rank" in record.takes:
            assert f"{name}: rank ({record.default_rank})" in place


@each
def test_second_writing_in_elementary_ops(name):
    battery.check_second_writing(name)


@pytest.mark.smoke
@each
def test_delta_is_what_forward_adds(name):
    battery.check_delta(name)


@each
def test_nothing_saved_in_vain(name):
    battery.check_nothing_saved_in_vain(name)


@each
def test_gradients_through_the_model(name):
    battery.check_model_gradients(name)


@each
def test_count(name):
    battery.check_count(name)


@each
def test_base_untouched(name):
    battery.check_base_untouched(name)


@pytest.mark.smoke
@each
def test_merge_and_unmerge(name):
    battery.check_merge(name)


@each
def test_training_lowers_the_loss(name):
    battery.check_training(name)


@each
def test_what_is_frozen_stays(name):
    battery.check_frozen_stays(name)


@each
def test_round_trip(name, tmp_path):
    battery.check_round_trip(name, tmp_path)


@each
def test_options(name):
    battery.check_options(name)


@each
def test_accumulate(name):
    battery.check_accumulate(name)


@each
def test_resume(name, tmp_path):
    battery.check_resume(name, tmp_path)


@each
def test_measure(name):
    battery.check_measure(name)


@each
def test_activations(name):
    battery.check_activations(name)


@each
def test_caches_freed(name):
    battery.check_caches_freed(name)


# ---------------------------------------- a further technique


def scale_forward(x, W, g):
    """y = (x Wᵀ) · (1 + g).   x (M, I), W (O, I) frozen, g (O,)  ->  y (M, O)."""
    z = x @ W.T
    return z * (1 + g), (z, W, g)


def scale_backward(dy, cache):
    """dy (M, O) -> dx (M, I), None, dg (O,)."""
    z, W, g = cache
    return (dy * (1 + g)) @ W, None, (dy * z).sum(axis=0)


SCALE = ml.METHODS["full"].__class__(
    name="scale",
    title="Scale",
    source="a test",
    formula="(1 + g) · W",
    op=Op("scale", scale_forward, scale_backward),
    trains=("g",),
    init=lambda W, rank, options, rng, shared: {"g": np.zeros(len(W), W.dtype)},
    delta=lambda W, g: g[:, None] * W,
    count=lambda I, O, rank: O,
    takes=("targets",),
)


@pytest.mark.parametrize("check", [f for f in dir(battery) if f.startswith("check_")])
def test_a_further_technique(check, tmp_path, monkeypatch):
    """One record in METHODS, and the whole battery runs on it as it stands."""
    monkeypatch.setitem(ml.METHODS, "scale", SCALE)
    monkeypatch.setitem(battery.ELEMENTARY, "scale", lambda x, W, g: (x @ W.T) * (g + 1))
    more = {"folder": tmp_path}
    function = getattr(battery, check)
    wanted = function.__code__.co_varnames[1 : function.__code__.co_argcount]
    function("scale", **{word: more[word] for word in wanted})


def test_a_reader_s_own_record_trains_and_is_stored(tmp_path):
    """A Method that stands in no table: attach, train, measure, save and load take it as it is."""
    assert SCALE.name not in ml.METHODS
    tuned = ml.attach(base(), SCALE, targets=("o_proj",))
    assert {a.shape for a in tuned.trainable.values()} == {(16,)}
    assert ml.train(tuned, BATCHES[:1], steps=20, lr=1e-2).losses[-1] < 4
    assert ml.measure(tuned, 2, 4)["gradients"] == 2 * 16 * 8
    ml.save_adapter(tuned, tmp_path)
    loaded = ml.load_adapter(base(), tmp_path, method=SCALE)
    assert loaded.record is SCALE and same_bits(loaded.trainable, tuned.trainable)


# ---------------------------------------- LoRA


def one_step(name, **options):
    """tuned after one AdamW step without decay, and the arrays before it."""
    tuned = tune(name, **options)
    before = copies(tuned.trainable)
    ml.train(tuned, BATCHES[:1], steps=1, lr=1e-2)
    return tuned, before


FIRST_STILL = dict.fromkeys(("lora", "lora_plus", "delta_lora"), ".lora_A.")
FIRST_STILL["vera"] = "vera_lambda_d"


@pytest.mark.parametrize("name", FIRST_STILL)
def test_first_step_moves_only_what_starts_at_0(name):
    """B = 0 makes dA = s (dy B)ᵀ x exactly zero, b = 0 makes dd zero, and AdamW moves nothing by a
    zero gradient.
    """
    tuned, before = one_step(name)
    for key, a in tuned.trainable.items():
        assert np.array_equal(a, before[key]) == (FIRST_STILL[name] in key), key


def test_lora_init():
    """A uniform in ±1/√I with variance 1/(3I), anew in every layer; B = 0; alpha = 2r."""
    tuned = ml.attach(base(width=256), "lora", rank=64, targets="all-linear")
    As = []
    for arrays in tuned.layers.values():
        A, I = arrays["A"], arrays["A"].shape[1]
        assert not arrays["B"].any() and arrays["s"] == 2
        assert 0.98 / np.sqrt(I) < np.abs(A).max() <= 1 / np.sqrt(I)
        assert abs(A.var() * 3 * I - 1) < 0.05 and abs(A.mean()) < 0.02 / np.sqrt(I)
        As.append(A.ravel()[:8].tobytes())
    assert len(set(As)) == len(As)


def test_scaling():
    """alpha/r, or alpha/√r where rank-stabilised; defaults: rank 8, alpha 2r."""

    def s(**options):
        return next(iter(ml.attach(base(), "lora", **options).layers.values()))["s"]

    assert s() == 2 and ml.attach(base(), "lora").rank == 8
    assert s(rank=4, alpha=6) == 1.5
    assert s(rank=4, alpha=6, rank_stabilized=True) == 3
    assert s(rank=4, rank_stabilized=True) == 4


@pytest.mark.parametrize("name", ["lora", "lora_fa", "lora_plus", "delta_lora"])
def test_only_s_times_the_product_counts(name):
    """alpha and rank enter as s alone: half the alpha and twice B is the same model."""
    one, two = tune(name, alpha=8.0), tune(name, alpha=4.0)
    battery.shake(one)
    for arrays, others in zip(one.layers.values(), two.layers.values(), strict=True):
        others["A"][:], others["B"][:] = arrays["A"], 2 * arrays["B"]
    assert rel(two.logits(BATCHES[0][0]), one.logits(BATCHES[0][0])) < 1e-13


@pytest.mark.parametrize(
    "name, options", [("lora_plus", {"ratio": 1.0}), ("delta_lora", {"update_ratio": 0.0})]
)
def test_the_limit_in_which_a_technique_is_lora(name, options):
    """Bit for bit."""
    settings = dict(steps=5, lr=1e-2, weight_decay=0.1, clip=0.5)
    tuned, lora = tune(name, **options), tune("lora")
    assert ml.train(tuned, BATCHES, **settings).losses == ml.train(lora, BATCHES, **settings).losses
    assert same_bits(tuned.trainable, lora.trainable)


# ---------------------------------------- LoRA-FA


def test_lora_fa_stays_in_the_row_space_of_A():
    """ΔW (I - A⁺A) = 0 after training: the rows of ΔW are combinations of A's."""
    tuned = tune("lora_fa", rank=3)
    A_before = {layer: arrays["A"].copy() for layer, arrays in tuned.layers.items()}
    ml.train(tuned, BATCHES, steps=10, lr=1e-2, weight_decay=0.1)
    for layer, A in A_before.items():
        change = tuned.delta(layer)
        assert np.abs(change).max() > 1e-3
        assert np.abs(change - change @ np.linalg.pinv(A) @ A).max() < 1e-13
        assert np.array_equal(tuned.layers[layer]["A"], A)


def test_lora_fa_keeps_no_x():
    """No array of x's size is in the cache, with dropout or without."""
    for p in (0.0, 0.5):
        _, cache = lora_fa.lora_fa_forward(*site("lora_fa", M=50, I=20, O=7, p=p).values())
        assert not any(isinstance(a, np.ndarray) and a.size >= 50 * 20 for a in cache)


@pytest.mark.parametrize(
    "targets, inputs",
    [
        ("q_proj", 1),  # x is the normed hidden state, which nothing else keeps
        (("q_proj", "k_proj", "v_proj"), 1),  # one x for three
        (("gate_proj", "up_proj"), 1),
        (("q_proj", "o_proj"), 1),  # o's x is attention's output: attention keeps it anyway
        ("down_proj", 1.5),  # x is the gated hidden state, F = 1.5 C wide
    ],
)
def test_what_lora_fa_saves(targets, inputs):
    """Its activations are smaller than LoRA's by exactly the x that nothing else keeps."""
    N, T = 2, 8
    held = {
        n: ml.measure(tune(n, targets=targets), N, T)["activations"] for n in ("lora", "lora_fa")
    }
    layers, width = 2, 16
    assert held["lora"] - held["lora_fa"] == int(layers * N * T * inputs * width) * 8


@pytest.mark.parametrize("shape", [(5, 4, 3), (6, 9, 3), (4, 7, 5)])
def test_corrected_gradient(shape):
    """dB (A Aᵀ)⁻¹ / s² is the least-squares solution g of min ‖s g A - dW‖, where dB = s dW Aᵀ."""
    O, I, r = shape
    rng = np.random.default_rng(0)
    r, s = min(r, I), 1.7
    A, dW = rng.standard_normal((r, I)), rng.standard_normal((O, I))
    grads = {"B": s * dW @ A.T}
    lora_fa.corrected_gradient({"A": A, "s": s}, grads, {"corrected": True})
    wanted = np.linalg.lstsq(s * A.T, dW.T, rcond=None)[0].T
    assert rel(grads["B"], wanted) < 1e-12
    assert rel(grads["B"], s * dW @ A.T @ np.linalg.inv(A @ A.T) / s**2) < 1e-12


def test_corrected_gradient_on_the_way():
    """It is taken after clipping, before AdamW, layer by layer, and only where it is asked for."""
    _, grads = gradients(tune("lora_fa"), BATCHES[:1])
    for corrected in (False, True):
        tuned = tune("lora_fa", corrected=corrected, alpha=9.0)
        plain = tune("lora_fa", alpha=9.0)
        _, grads = gradients(plain, BATCHES[:1])
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        # With a huge eps the first step is -lr · g / eps: AdamW shows the gradient that it got.
        ml.train(tuned, BATCHES[:1], steps=1, lr=1.0, betas=(0.0, 0.0), eps=1e9, clip=norm / 2)
        for layer, arrays in tuned.layers.items():
            g = grads[tuned.key(layer, "B")] * (norm / 2) / (norm + 1e-6)
            if corrected:
                g = g @ np.linalg.inv(arrays["A"] @ arrays["A"].T) / arrays["s"] ** 2
            assert rel(arrays["B"], -g / 1e9) < 1e-6


# ---------------------------------------- VeRA

# sha256 of torch's float32 bytes (A, then B), made with PEFT's recipe for the key in torch 2.13:
# generator.manual_seed(key); A (r, I) uniform in ±√3·(√2/√I), then B (O, r) in ±√3·(√2/√r).
TORCH = {
    (0, 24, 16, 5): "edf90fdcc8a83c0e",
    (0, 64, 64, 8): "97775740fdc84c6b",
    (0, 33, 100, 257): "c3655a80ef7a56df",
    (12345, 24, 16, 5): "3292aace562ec454",
    (12345, 64, 64, 8): "0b2e16e6661d0c7e",
    (12345, 33, 100, 257): "a96c84ed20c60ba7",
    (4294967301, 24, 16, 5): "214afbb159d844ce",
    (4294967301, 64, 64, 8): "00b97f1eeb2c30bb",
    (4294967301, 33, 100, 257): "7e88691626a7f70e",
}


@pytest.mark.parametrize("key, O, I, rank", TORCH)
def test_vera_init_is_torch_bit_for_bit(key, O, I, rank):
    pair = vera.prepare([(O, I)], rank, {"projection_prng_key": key}, np.empty(0, np.float32))
    digest = hashlib.sha256(pair["A"].astype("<f4").tobytes() + pair["B"].astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == TORCH[key, O, I, rank]
    assert np.abs(pair["A"]).max() <= np.float32(np.sqrt(6 / I))
    assert np.abs(pair["B"]).max() <= np.float32(np.sqrt(6 / rank))


def test_vera_shares_one_pair():
    """A layer's A and B are views of the shared pair, sliced; in float64 the same draws."""
    for dtype in ("float32", "float64"):
        tuned = tune("vera", base(dtype), rank=5)
        A, B = tuned.shared["A"], tuned.shared["B"]
        assert A.shape == (5, 24) and B.shape == (24, 5) and A.dtype == dtype
        assert np.array_equal(A.astype(np.float32), A)
        for layer, arrays in tuned.layers.items():
            O, I = base().config.linears()[layer]
            assert arrays["A"].shape == (5, I) and arrays["B"].shape == (O, 5)
            assert np.shares_memory(arrays["A"], A) and np.shares_memory(arrays["B"], B)
            assert np.array_equal(arrays["A"], A[:, :I]) and np.array_equal(arrays["B"], B[:O])
            assert not arrays["b"].any() and np.all(arrays["d"] == np.asarray(0.1, dtype))


def test_vera_s_pair_is_counted_once():
    """Slices of one pair, the last one the smallest: the pair's bytes, whole, and each b and d."""
    tuned = tune("vera", rank=5, targets=("q_proj", "k_proj"))
    own = sum(a.nbytes for a in tuned.trainable.values())
    pair = 8 * 5 * (16 + 16)
    frozen = sum(a.nbytes for a in base().params.values())
    assert ml.measure(tuned, 1, 4)["weights"] == frozen + pair + own


def test_vera_defaults():
    assert ml.attach(base(), "vera").rank == 256
    d = next(iter(ml.attach(base(), "vera", rank=4, d_initial=0.7).layers.values()))["d"]
    assert np.all(d == 0.7)
    keys = [ml.attach(base(), "vera", rank=4, projection_prng_key=k).shared["A"] for k in (0, 1)]
    assert not np.array_equal(*keys)


# ---------------------------------------- Delta-LoRA


def run_delta(steps=12, start_step=0, rank=2, targets="all-linear", accumulate=1, **settings):
    """tuned after training, and every layer's A, B, W after each step, from step 0 on."""
    tuned = tune("delta_lora", rank=rank, targets=targets, start_step=start_step)

    def now():
        return {n: {k: a[k].copy() for k in "ABW"} for n, a in tuned.layers.items()}

    past = [now()]
    settings = {"lr": 1e-2, "accumulate": accumulate, **settings}
    ml.train(
        tuned,
        BATCHES,
        steps=steps,
        **settings,
        evaluate=lambda t: past.append(now()),
        evaluate_every=1,
    )
    return tuned, past


def check_telescoping(start_step, weight_decay, **settings):
    """W_T - W_0 = λ s (B_T A_T - B_k A_k) at every T; k = start_step, when W begins to move."""
    tuned, past = run_delta(start_step=start_step, weight_decay=weight_decay, **settings)
    for layer, arrays in tuned.layers.items():
        factor = tuned.options["update_ratio"] * arrays["s"]
        start = past[start_step][layer]
        for T, at in enumerate(past):
            moved = at[layer]["W"] - past[0][layer]["W"]
            if start_step >= T:
                assert not moved.any()
                continue
            wanted = factor * (at[layer]["B"] @ at[layer]["A"] - start["B"] @ start["A"])
            assert np.abs(moved - wanted).max() <= 1e-12 * np.abs(at[layer]["W"]).max()
            assert np.abs(wanted).max() > 1e-4
        assert np.array_equal(arrays["A_start"], start["A"]) and np.array_equal(
            arrays["B_start"], start["B"]
        )


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("start_step", [0, 1, 10])
def test_delta_lora_telescopes(start_step, weight_decay):
    check_telescoping(start_step, weight_decay)


@pytest.mark.parametrize("start_step, rank", [(0, 2), (1, 4), (10, 4)])
def test_rank_of_what_delta_lora_moves(start_step, rank):
    """W_T - W_0 has rank r where W moves from the first step on (B_0 = 0), else 2r: never more."""
    tuned, past = run_delta(start_step=start_step, steps=14)
    for layer in tuned.layers:
        moved = past[-1][layer]["W"] - past[0][layer]["W"]
        assert np.linalg.matrix_rank(moved, tol=1e-10 * np.linalg.norm(moved, 2)) == rank


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_delta_lora_from_the_first_step_is_a_lora_of_scaling_1_plus_λ(weight_decay):
    """Exactly, where LoRA's eps grows by 1 + λ as its gradients do."""
    ratio, steps = 2.0, 15
    settings = dict(steps=steps, lr=1e-2, weight_decay=weight_decay)
    delta = tune("delta_lora", alpha=6.0, update_ratio=ratio)
    lora = tune("lora", alpha=6.0 * (1 + ratio))
    a = ml.train(delta, BATCHES, **settings, eps=1e-8)
    b = ml.train(lora, BATCHES, **settings, eps=1e-8 * (1 + ratio))
    assert np.abs(np.array(a.losses) - b.losses).max() < 1e-12
    one, two = ml.merge(delta).params, ml.merge(lora).params
    assert all(rel(one[k], two[k]) < 1e-12 for k in one)


def test_delta_lora_moves_W_once_a_step():
    """Whatever accumulate is: the telescoping sum counts optimizer steps."""
    check_telescoping(1, 0.0, accumulate=3, steps=4)


def test_delta_lora_trained_twice_still_telescopes():
    """A second call of train goes on with a W that has moved, without a second wait."""
    tuned = tune("delta_lora", rank=2, start_step=2)
    W0 = {layer: arrays["W"].copy() for layer, arrays in tuned.layers.items()}
    for _ in range(2):
        ml.train(tuned, BATCHES, steps=4, lr=1e-2)
    for layer, a in tuned.layers.items():
        wanted = 2.0 * a["s"] * (a["B"] @ a["A"] - a["B_start"] @ a["A_start"])
        assert np.abs(a["W"] - W0[layer] - wanted).max() < 1e-12


# ---------------------------------------- LoRA+


def test_lora_plus_moves_B_16_times_as_far():
    """On the first step, from the same gradients, by default; A moves as LoRA's."""
    plus, lora = battery.shake(tune("lora_plus")), battery.shake(tune("lora"))
    before = copies(lora.trainable)
    for tuned in (plus, lora):
        ml.train(tuned, BATCHES[:1], steps=1, lr=1e-3)
    for key, start in before.items():
        ratio = 16 if ".lora_B." in key else 1
        assert rel(plus.trainable[key] - start, ratio * (lora.trainable[key] - start)) < 1e-9


# ---------------------------------------- dropout

WITH_DROPOUT = [n for n in NAMES if ml.METHODS[n].has_dropout]


def test_mask():
    """The key alone makes it; it is 0 or 1/(1-p), 0 with probability p; its mean is 1."""
    x = np.zeros((400, 500), np.float32)
    m = mask(x, 0.2, (3, 1, 0, 2))
    assert np.array_equal(m, mask(x, 0.2, (3, 1, 0, 2))) and m.dtype == np.float32
    for key in ((4, 1, 0, 2), (3, 2, 0, 2), (3, 1, 1, 2), (3, 1, 0, 3)):
        other = mask(x, 0.2, key)
        assert abs(np.corrcoef(m.ravel(), other.ravel())[0, 1]) < 0.01
    assert set(np.unique(m)) == {np.float32(0), np.float32(1.25)}
    assert abs((m == 0).mean() - 0.2) < 0.004 and abs(m.mean() - 1) < 0.005
    assert np.array_equal(mask(x.astype(np.float64), 0.2, (3, 1, 0, 2)) == 0, m == 0)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_keeps_the_mean(name):
    """E[forward] is forward without dropout; the frozen path is not dropped."""
    args = site(name, M=3, I=6, O=4, p=0.3)
    keys = [(0, step, 0, 0) for step in range(1, 3001)]
    forward = ml.METHODS[name].op.forward
    drops = [ops.dropout.forward(args["x"], 0.3, key)[0] for key in keys]
    drawn = np.array([forward(**{**args, "xd": xd})[0] for xd in drops])
    plain, _ = forward(**{**args, "xd": None})
    error = drawn.std(axis=0) / np.sqrt(len(keys))
    assert np.all(np.abs(drawn.mean(axis=0) - plain) < 5 * error)
    none = {**args, **{a: np.zeros_like(args[a]) for a in ml.METHODS[name].trains}}
    assert rel(forward(**none)[0], args["x"] @ args["W"].T) < 1e-14


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_in_training_only(name):
    """Losses of training depend on it; logits, text and a loss without key do not."""
    wet, dry = (battery.shake(tune(name, dropout=p)) for p in (0.5, 0.0))
    ids, targets = BATCHES[0]
    assert np.array_equal(wet.logits(ids), dry.logits(ids))
    assert np.array_equal(wet.generate(ids, 4), dry.generate(ids, 4))
    assert wet.loss(ids, targets).data == dry.loss(ids, targets).data
    losses = {
        float(wet.loss(ids, targets, leaves=wet.leaves(), key=key).data)
        for key in ((0, 1, 0), (0, 2, 0), (0, 1, 1))
    }
    assert len(losses) == 3 and float(dry.loss(ids, targets).data) not in losses


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_each_adapter_step_and_micro_batch_has_its_own_mask(name, monkeypatch):
    """train makes the keys (seed, step, micro-batch, adapter)."""
    seen = []

    def forward(x, p, key, rows):
        seen.append(key)
        return pair.forward(x, p, key, rows)

    pair = ops.dropout
    monkeypatch.setattr(ops, "dropout", Op("dropout", forward, ops.dropout.backward))
    tuned = tune(name, dropout=0.1, seed=7)
    ml.train(tuned, BATCHES, steps=2, lr=1e-3, accumulate=2)
    adapters = range(len(tuned.layers))
    assert seen == [(7, step, j, i) for step in (1, 2) for j in (0, 1) for i in adapters]


# ---------------------------------------- the pairs alone


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32(name):
    """Value and gradients keep the dtype, and agree with float64."""
    for p in (0.0, 0.5) if ml.METHODS[name].has_dropout else (0.0,):
        answers = []
        for dtype in (np.float32, np.float64):
            args = site(name, M=9, I=8, O=6, p=p, dtype=dtype)
            out, cache = ml.METHODS[name].op.forward(*args.values())
            grads = [g for g in ml.METHODS[name].op.backward(out, cache) if g is not None]
            assert all(a.dtype == dtype for a in (out, *grads))
            answers.append((out, *grads))
        assert all(rel(a, b) < 1e-5 for a, b in zip(*answers, strict=True))
