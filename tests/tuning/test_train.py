"""The training loop, AdamW, schedules, clipping, divergence, checkpoints."""

import importlib
import json
import math
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from battery import BATCHES, base, batch, copies, same_bits, shake, tune
from conftest import rel
from hypothesis import given
from hypothesis import strategies as st

import minilora as ml
from minilora.tuning import checkpoints, optim
from minilora.tuning.callbacks import Callback, EarlyStopping, Log, Run
from minilora.tuning.history import History
from minilora.tuning.train import Diverged, gradients

train = importlib.import_module("minilora.tuning.train")  # ml.train is the function

# ---------------------------------------- AdamW


def textbook(p, grads, lr, betas, eps, weight_decay):
    """AdamW, entry by entry in Python's floats."""
    p = list(map(float, p.ravel()))
    m, v = [0.0] * len(p), [0.0] * len(p)
    for n, g in enumerate(grads, start=1):
        for i, gi in enumerate(map(float, g.ravel())):
            p[i] -= lr * weight_decay * p[i]
            m[i] = betas[0] * m[i] + (1 - betas[0]) * gi
            v[i] = betas[1] * v[i] + (1 - betas[1]) * gi**2
            m_hat, v_hat = m[i] / (1 - betas[0] ** n), v[i] / (1 - betas[1] ** n)
            p[i] -= lr * m_hat / (math.sqrt(v_hat) + eps)
    return np.array(p)


@given(
    st.integers(0, 1000),
    st.sampled_from([(0.9, 0.999), (0.0, 0.0), (0.5, 0.9)]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([1e-8, 1e-2]),
    st.sampled_from([1.0, 16.0]),
)
def test_adamw_is_the_textbook_s(seed, betas, weight_decay, eps, scale):
    rng = np.random.default_rng(seed)
    p = rng.standard_normal((3, 4))
    grads = [rng.standard_normal((3, 4)) * 10.0 ** rng.integers(-4, 3) for _ in range(6)]
    wanted = textbook(p, grads, 0.01 * scale, betas, eps, weight_decay)
    adam = optim.AdamW(
        {"p": p}, betas=betas, eps=eps, weight_decay=weight_decay, scale={"p": scale}
    )
    for g in grads:
        adam.step({"p": g}, 0.01)
    assert rel(p.ravel(), wanted) < 1e-12
    assert adam.nbytes == 2 * p.nbytes and adam.steps == 6


@pytest.mark.smoke
def test_adamw_is_torch_s():
    """torch.optim.AdamW(lr=.1, betas=(.8, .95), eps=1e-3, weight_decay=.3)."""
    torch = {
        1: [0.385990099009901, -0.8701996007984032, 2.0399000999001],
        5: [-0.03505451818889303, -0.4580618088011823, 1.8392904928270828],
    }
    p = np.array([0.5, -1.0, 2.0])
    adam = optim.AdamW({"p": p}, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3)
    for n in range(1, 6):
        adam.step({"p": np.array([n * 0.1, -0.5 / n, (-1.0) ** n])}, 0.1)
        if n in torch:
            assert rel(p, np.array(torch[n])) < 1e-14


def test_adamw_in_float32_is_near():
    rng = np.random.default_rng(0)
    p = rng.standard_normal((40, 30))
    q = p.astype(np.float32)
    wide, narrow = (optim.AdamW({"p": a}, weight_decay=0.1) for a in (p, q))
    for _ in range(10):
        g = rng.standard_normal(p.shape)
        wide.step({"p": g}, 0.01)
        narrow.step({"p": g.astype(np.float32)}, 0.01)
    assert q.dtype == np.float32 and rel(q, p) < 1e-6


def test_decay_reaches_every_trained_array():
    """With gradients of zero a step leaves p (1 - lr·wd) of everything: B, b, d, gains."""
    for name in ml.METHODS:
        tuned = shake(tune(name))
        before = copies(tuned.trainable)
        adam = optim.AdamW(tuned.trainable, weight_decay=0.5)
        adam.step({k: np.zeros_like(a) for k, a in before.items()}, 0.1)
        assert all(rel(a, before[k] * 0.95) < 1e-14 for k, a in tuned.trainable.items())


# ---------------------------------------- schedules, clipping


def test_schedules():
    """lr·min(1, n/warmup), then constant, linear or along a cosine to 0 at `steps`."""

    def rates(**settings):
        return [optim.learning_rate(n, lr=2.0, steps=10, **settings) for n in range(1, 11)]

    assert rates() == [2.0] * 10
    assert rates(warmup=4) == [0.5, 1.0, 1.5] + [2.0] * 7
    ramp = [0.5, 1.0, 1.5, 2.0]
    left = np.arange(1, 7) / 6
    assert np.allclose(rates(warmup=4, schedule="linear"), [*ramp, *(2 * (1 - left))], atol=1e-15)
    curve = 1 + np.cos(np.pi * left)
    assert np.allclose(rates(warmup=4, schedule="cosine"), [*ramp, *curve], atol=1e-15)
    assert rates(schedule="linear")[0] == 1.8 and rates(schedule="linear")[-1] == 0
    assert rates(schedule="cosine")[4] == pytest.approx(1.0) and rates(schedule="cosine")[-1] == 0
    assert rates(warmup=10, schedule="linear") == pytest.approx(np.arange(1, 11) / 5)


def test_a_run_by_hand():
    """Every setting at once reaches the step: rates, betas, eps, decay, clipping, written out."""
    settings = dict(lr=0.02, betas=(0.7, 0.8), eps=1e-3, weight_decay=0.2, clip=0.3)
    run, hand = shake(tune("lora_plus", ratio=4.0)), shake(tune("lora"))
    ml.train(run, BATCHES, steps=5, schedule="cosine", warmup=2, **settings)
    m = dict.fromkeys(hand.trainable, 0)
    v = dict(m)
    for n in range(1, 6):
        rate = 0.02 * n / 2 if n <= 2 else 0.01 * (1 + math.cos(math.pi * (n - 2) / 3))
        _, grads = gradients(hand, [BATCHES[n - 1]])
        norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
        assert norm > 0.3
        for key, p in hand.trainable.items():
            g, mine = grads[key] * 0.3 / (norm + 1e-6), rate * (4 if ".lora_B." in key else 1)
            m[key], v[key] = 0.7 * m[key] + 0.3 * g, 0.8 * v[key] + 0.2 * g**2
            step = m[key] / (1 - 0.7**n) / (np.sqrt(v[key] / (1 - 0.8**n)) + 1e-3)
            p[...] = p * (1 - mine * 0.2) - mine * step
    assert all(rel(run.trainable[k], p) < 1e-12 for k, p in hand.trainable.items())


def test_clip():
    """All gradients times min(1, limit / (‖g‖ + 1e-6)), the norm over all arrays together."""
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert optim.global_norm(grads) == 5
    assert optim.clip_factor(grads, 1.0) == 1 / (5 + 1e-6)
    assert optim.clip_factor(grads, 6.0) == 1
    assert optim.global_norm({"a": np.full(4, 1e20, np.float32)}) == pytest.approx(2e20)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_clipped_step_is_one_on_smaller_gradients_to_the_bit(dtype):
    """The factor goes into AdamW, and rounds as it did when it made arrays of its own."""
    rng = np.random.default_rng(0)
    p = {name: rng.standard_normal((n, 7)).astype(dtype) for name, n in (("a", 3), ("b", 9001))}
    q = copies(p)
    one, two = (optim.AdamW(arrays, weight_decay=0.1) for arrays in (p, q))
    for factor in (0.37, 1.0, 1e-4):
        g = {name: 30 * rng.standard_normal(a.shape).astype(dtype) for name, a in p.items()}
        before = copies(g)
        one.step(g, 0.01, factor)
        two.step({name: a * factor for name, a in g.items()}, 0.01)
        assert same_bits(p, q) and same_bits(one.m, two.m) and same_bits(one.v, two.v)
        assert same_bits(g, before)


# ---------------------------------------- batches, accumulation, what is recorded


def test_loss_is_the_mean_over_what_counts():
    """The mean of -log p(target) over all micro-batches together, without the targets at -100."""
    parts = [batch(1, ignored=0.1), batch(2, ignored=0.7)]
    terms = []
    for ids, targets in parts:
        z = base().logits(ids)
        log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        n, t = np.nonzero(targets != -100)
        terms.extend(-log_p[n, t, targets[n, t]])
    history = ml.train(tune("lora"), parts, steps=1, lr=0.01, accumulate=2)
    assert history.losses[0] == pytest.approx(np.mean(terms), abs=1e-12)


def test_lists_are_cycled_and_iterables_are_read_once():
    a, b = tune("lora"), tune("lora")
    one = ml.train(a, BATCHES[:2], steps=5, lr=0.01)
    seen = []

    def stream():
        for i in (0, 1, 0, 1, 0, 1, 0):
            seen.append(i)
            yield BATCHES[i]

    two = ml.train(b, stream(), steps=5, lr=0.01)
    assert one.losses == two.losses and same_bits(a.arrays, b.arrays)
    assert len(seen) == 5  # nothing is read ahead
    assert ml.train(tune("lora"), tuple(BATCHES[:2]), steps=5, lr=0.01).losses == one.losses


def test_accumulation_takes_the_batches_in_order():
    a, b = tune("full"), tune("full")
    joined = [tuple(np.concatenate(x) for x in zip(*BATCHES[i : i + 2])) for i in (0, 2)]
    one = ml.train(a, BATCHES[:4], steps=2, lr=0.01, accumulate=2)
    two = ml.train(b, joined, steps=2, lr=0.01)
    assert one.losses == pytest.approx(two.losses, abs=1e-12)
    assert all(rel(a.arrays[k], b.arrays[k]) < 1e-6 for k in a.arrays)


def test_batches_run_out():
    """The steps that there were batches for are done, then it is said what is missing."""
    tuned, done = tune("lora"), tune("lora")
    with pytest.raises(ValueError, match=r"step 3: the batches ran out, got 0 of 1"):
        ml.train(tuned, iter(BATCHES[:2]), steps=3, lr=0.01)
    ml.train(done, BATCHES, steps=2, lr=0.01)
    assert same_bits(tuned.arrays, done.arrays)
    with pytest.raises(ValueError, match="1 of 2"):
        ml.train(tuned, iter(BATCHES[:3]), steps=2, lr=0.01, accumulate=2)


def test_history_is_plain_data():
    tuned = tune("lora_fa")
    history = ml.train(
        tuned, BATCHES, steps=5, lr=0.01, evaluate=lambda t: t.rank, evaluate_every=2
    )
    assert history.evaluations == [(2, 3), (4, 3), (5, 3)]
    again = json.loads(json.dumps(history.to_dict()))
    assert again["losses"] == history.losses and len(again["seconds"]) == len(again["rates"]) == 5
    assert all(t > 0 for t in history.seconds)


def test_evaluation_does_not_change_the_run():
    a, b = tune("lora", dropout=0.2), tune("lora", dropout=0.2)
    one = ml.train(a, BATCHES, steps=4, lr=0.01)
    ids = BATCHES[0][0]
    two = ml.train(
        b,
        BATCHES,
        steps=4,
        lr=0.01,
        evaluate=lambda t: float(t.logits(ids).sum()),
        evaluate_every=1,
    )
    assert one.losses == two.losses and same_bits(a.arrays, b.arrays)


@pytest.mark.smoke
def test_progress_bar(capfd):
    """Silent where stderr is no terminal, unless it is asked for; never on stdout."""
    ml.train(tune("lora"), BATCHES, steps=2, lr=0.01)
    assert capfd.readouterr() == ("", "")
    ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "LoRA" in err


@pytest.mark.parametrize("static", ["", "1"])
def test_nobody_waits_in_silence_in_a_notebook(static, monkeypatch, capfd):
    """A notebook's stderr is no terminal; where notebooks are built, a bar would stand in them."""
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setenv("MINILORA_STATIC", static)
    ml.train(tune("lora"), BATCHES, steps=2, lr=0.01)
    out, err = capfd.readouterr()
    assert out == "" and ("LoRA" in err) == (not static)


# ---------------------------------------- what is told while a run goes on


class Diary(Callback):
    """Writes down each moment; ends the run after a step where it is told to."""

    def __init__(self, until=None):
        self.moments, self.until = [], until

    def step(self, run):
        self.moments.append(("step", run.step, len(run.history.losses)))
        if run.step == self.until:
            run.stop("enough")

    def evaluation(self, run):
        self.moments.append(("evaluation", *run.history.evaluations[-1]))

    def checkpoint(self, run):
        self.moments.append(("checkpoint", run.step))

    def end(self, run):
        self.moments.append(("end", run.step, run.stopped))


@pytest.mark.smoke
def test_callbacks_are_told_of_four_moments(tmp_path):
    diary = Diary()
    settings = dict(lr=0.01, checkpoint=tmp_path / "run.safetensors", checkpoint_every=2)
    ml.train(tune("lora"), BATCHES, steps=3, evaluate=lambda t: 7.0, callbacks=[diary], **settings)
    steps = [("step", n, n) for n in (1, 2, 3)]
    assert diary.moments == [
        *steps[:2],
        ("checkpoint", 2),
        steps[2],
        ("evaluation", 3, 7.0),
        ("checkpoint", 3),
        ("end", 3, ""),
    ]


def test_a_callback_ends_the_run_and_it_goes_on_to_the_same_bits(tmp_path):
    """The evaluation and the checkpoint of the last step are those of the step where it ended."""
    diary, path, whole = Diary(until=2), tmp_path / "run.safetensors", tune("lora")
    settings = dict(steps=5, lr=0.01, schedule="cosine", checkpoint=path)
    history = ml.train(tune("lora"), BATCHES, evaluate=lambda t: 7.0, callbacks=[diary], **settings)
    assert len(history.losses) == 2 and history.evaluations == [(2, 7.0)]
    assert diary.moments[-3:] == [("evaluation", 2, 7.0), ("checkpoint", 2), ("end", 2, "enough")]
    resumed = tune("lora")
    ml.train(resumed, BATCHES, resume=True, **settings)
    ml.train(whole, BATCHES, **{**settings, "checkpoint": None})
    assert same_bits(resumed.arrays, whole.arrays)


@pytest.mark.parametrize(
    "values, higher, least, ends",
    [
        ([3, 2, 2.5, 2.2, 1], False, 0.0, 4),
        ([3, 2, 2.5, 1, 1, 1], False, 0.0, 6),
        ([0.1, 0.3, 0.2, 0.3, 0.9], True, 0.0, 4),
        ([3, 2.9, 2.8, 2, 1], False, 0.5, 3),
        ([4, 3, 2, 1, 0], False, 0.0, None),
        ([1, float("nan"), float("nan"), 0], False, 0.0, 3),
    ],
)
def test_early_stopping(values, higher, least, ends):
    stopping, left = EarlyStopping(2, higher=higher, least=least), iter(values)
    history = ml.train(
        tune("lora"),
        BATCHES,
        steps=len(values),
        lr=0.0,
        evaluate=lambda t: next(left),
        evaluate_every=1,
        callbacks=[stopping],
    )
    assert len(history.losses) == (ends or len(values))


def test_a_log_goes_on_with_its_run(tmp_path):
    path, log = tmp_path / "run.safetensors", tmp_path / "new" / "log.jsonl"
    settings = dict(lr=0.01, checkpoint=path)
    ml.train(tune("lora"), BATCHES, steps=2, **settings, callbacks=[Log(log)])
    with log.open("a") as file:
        file.write('{"step": 3, "evaluation": 1}\n{"step": 4, "lo')  # later, and cut off
    with pytest.warns(UserWarning, match=r"log\.jsonl: left out 1 line .* the first is line 4"):
        again = [Log(log)]
        more = ml.train(tune("lora"), BATCHES, steps=4, resume=True, **settings, callbacks=again)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["loss"] for line in lines] == more.losses
    ml.train(tune("lora"), BATCHES, steps=1, lr=0.01, callbacks=[Log(log)])
    assert len(log.read_text().splitlines()) == 1


NO_RECORDS = [
    '{"loss": 1}',
    '{"step": null}',
    '{"step": null, "loss": 1, "rate": 1, "seconds": 1}',
    '{"step": "1", "loss": 1, "rate": 1, "seconds": 1}',
    '{"step": 1.0, "loss": 1, "rate": 1, "seconds": 1}',
    '{"step": true, "loss": 1, "rate": 1, "seconds": 1}',
    '{"step": -1, "loss": 1, "rate": 1, "seconds": 1}',
    '{"step": 1e400, "loss": 1, "rate": 1, "seconds": 1}',
    '{"step": 1, "loss": "1", "rate": 1, "seconds": 1}',
    '{"step": 1, "loss": NaN, "rate": 1, "seconds": 1}',
    '{"step": 1, "loss": 1, "rate": null, "seconds": 1}',
    '{"step": 1, "loss": 1, "rate": 1}',
    '{"step": 1, "lo',
    '{"step": 1}',
    '{"a": "}',
    "{}",
    "[1, 2]",
    "1",
    "null",
    "}",
    "\x00",
    "[" * 100_000 + "}",
    '{"step": ' + "9" * 5000 + ', "loss": 1, "rate": 1, "seconds": 1}',
]


def _resumed(folder, text):
    """Resume a run after its second step, whose log has this text  ->  the log's lines."""
    log = folder / "log.jsonl"
    log.write_bytes(text)
    run = Run(None, History([1.0] * 3, [0.1] * 3, [0.0] * 3), steps=4, step=2, save=None)
    again = Log(log)
    again.start(run)
    run.step = 3
    again.step(run)
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("line", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_a_line_of_the_log_that_is_no_record_is_left_out_and_said(tmp_path, line):
    whole = '{"step": 1, "evaluation": {"score": 0.5}}'
    text = f"{whole}\n{line}\n\n{line}\n"
    with pytest.warns(UserWarning) as said:
        lines = _resumed(tmp_path, text.encode())
    assert [line["step"] for line in lines] == [1, 3]
    wanted = "log.jsonl: left out 2 lines that record no step, the first is line 2"
    assert [str(one.message) for one in said] == [f"{tmp_path}{os.sep}{wanted}"]


def test_a_log_that_is_not_utf_8_is_named_with_its_line_before_a_step(tmp_path):
    path, log = tmp_path / "run.safetensors", tmp_path / "log.jsonl"
    settings = dict(lr=0.01, checkpoint=path, callbacks=[Log(log)])
    ml.train(tune("lora"), BATCHES, steps=2, **settings)
    before = log.read_bytes() + b'{"step": 2, "evaluation": "\xff"}\n'
    log.write_bytes(before)
    tuned = tune("lora")
    with pytest.raises(ValueError, match=rf"{re.escape(str(log))}: line 3: not UTF-8"):
        ml.train(tuned, BATCHES, steps=4, resume=True, **settings)
    assert log.read_bytes() == before


# ---------------------------------------- divergence


@pytest.mark.smoke
def test_a_nan_in_the_base_is_named():
    params = copies(base().params)
    name = "model.layers.1.mlp.up_proj.weight"
    params[name][3, 2] = np.nan
    tuned = tune("lora", ml.Llama(base().config, params))
    before = copies(tuned.arrays)
    with pytest.raises(Diverged, match=rf"step 1: the loss is nan.*{name}"):
        ml.train(tuned, BATCHES, steps=3, lr=0.01)
    assert same_bits(tuned.arrays, before)


@pytest.mark.parametrize("name", list(ml.METHODS))
def test_a_nan_in_an_adapter_is_named(name):
    tuned = tune(name)
    key = sorted(tuned.trainable)[0]
    tuned.trainable[key].flat[0] = np.nan
    with pytest.raises(Diverged, match=f"step 1.*{key}"):
        ml.train(tuned, BATCHES, steps=3, lr=0.01)


def test_an_overflow_on_the_way_is_named():
    """All weights are finite, the second layer's product is not: that is where it is said to be."""
    params = copies(base("float32").params)
    for kind in ("gate", "up"):
        params[f"model.layers.1.mlp.{kind}_proj.weight"] *= 1e30
    tuned = tune("lora", ml.Llama(base().config, params))
    with np.errstate(all="ignore"), pytest.raises(Diverged) as raised:
        ml.train(tuned, BATCHES, steps=1, lr=0.01)
    assert "model.layers.1.mlp.down_proj" in str(raised.value)


def test_an_infinite_gradient_is_named(monkeypatch):
    tuned = tune("lora")
    honest = train.gradients
    key = list(tuned.trainable)[3]

    def spoilt(tuned, micro_batches, step):
        loss, grads = honest(tuned, micro_batches, step)
        if step == 3:
            grads[key][0, 0] = np.inf
        return loss, grads

    monkeypatch.setattr(train, "gradients", spoilt)
    with pytest.raises(Diverged, match=rf"step 3.*the gradient of {key}"):
        ml.train(tuned, BATCHES, steps=5, lr=0.01, clip=1.0)
    monkeypatch.undo()
    done = tune("lora")
    ml.train(done, BATCHES, steps=2, lr=0.01, clip=1.0)
    assert same_bits(tuned.arrays, done.arrays)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype, lr", [("float64", 1e300), ("float32", 1e33)])
@pytest.mark.parametrize("name", list(ml.METHODS))
def test_a_huge_rate_diverges_and_keeps_the_checkpoint(name, dtype, lr, tmp_path):
    """Arrays and checkpoint are those of the last good step."""
    path = tmp_path / "run.safetensors"
    tuned = tune(name, base(dtype), **({"ratio": 1.0, "update_ratio": 1e-9}))
    with pytest.raises(Diverged, match=r"step [2-9]: the loss is .* not finite: "):
        ml.train(tuned, BATCHES, steps=9, lr=lr, checkpoint=path, checkpoint_every=1)
    assert all(np.isfinite(a).all() for a in tuned.arrays.values())
    adam, again = optim.AdamW(tuned.trainable), copies(tuned.arrays)
    history = checkpoints.load(path, tuned, adam, {})
    assert len(history["losses"]) == adam.steps >= 1 and same_bits(tuned.arrays, again)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_step_that_overflows_is_not_written(tmp_path):
    """Beyond float32's range in one step: the old checkpoint stays, the array is named."""
    path = tmp_path / "run.safetensors"
    ml.train(tune("lora", base("float32")), BATCHES, steps=1, lr=0.01, checkpoint=path)
    before = path.read_bytes()
    for every in (1, None):
        with pytest.raises(Diverged, match=r"step 1: the array .*lora_[AB]\.weight is not finite"):
            tuned = tune("lora", base("float32"))
            ml.train(tuned, BATCHES, steps=1, lr=1e300, checkpoint=path, checkpoint_every=every)
    assert path.read_bytes() == before


# ---------------------------------------- checkpoints


def with_a_pattern(name):
    return ml.attach(base(), "lora", rank=3, targets="all-linear", **{name: {"q_proj": 2}})


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, checkpoint=path)
    nudged = copies(base().params)
    nudged["model.norm.weight"][0] += 1e-9
    for other, said in {
        "method": tune("lora_fa"),
        "rank": tune("lora", rank=2, alpha=6),
        "alpha": tune("lora", alpha=1.0),
        "seed": tune("lora", seed=1),
        "options": tune("lora", dropout=0.5),
        "rank_pattern": with_a_pattern("rank_pattern"),
        "alpha_pattern": with_a_pattern("alpha_pattern"),
        "array": tune("lora", targets="q_proj"),
        "base": tune("lora", base(width=8)),
        "base is": tune("lora", ml.Llama(base().config, nudged)),
    }.items():
        before = copies(said.arrays)
        with pytest.raises(ValueError, match=other):
            ml.train(said, BATCHES, steps=4, lr=0.01, checkpoint=path, resume=True)
        assert same_bits(said.arrays, before)
    with pytest.raises(ValueError, match="not a checkpoint"):
        ml.save_adapter(tune("lora"), tmp_path)
        wrong = tmp_path / "adapter_model.safetensors"
        ml.train(tune("lora"), BATCHES, steps=4, lr=0.01, checkpoint=wrong, resume=True)
    with pytest.raises(ValueError, match="resume"):
        ml.train(tune("lora"), BATCHES, steps=4, lr=0.01, resume=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ml.train(tune("lora"), BATCHES, steps=1, lr=0.01, checkpoint="nowhere", resume=True)


def test_a_run_with_other_settings_does_not_resume(tmp_path):
    """Each setting that the next step depends on; more steps are the same run where the rate does
    not depend on their number.
    """
    path = tmp_path / "run.safetensors"
    settings = dict(lr=0.01, schedule="linear", steps=3, clip=1.0, checkpoint=path)
    ml.train(tune("lora"), BATCHES, **settings)
    others = dict(lr=0.02, steps=4, clip=None, eps=1e-6, betas=(0.9, 0.99), weight_decay=0.1)
    others |= dict(schedule="cosine", warmup=1, accumulate=2)
    for name, value in others.items():
        with pytest.raises(ValueError, match=f"{name} was "):
            ml.train(tune("lora"), BATCHES, **{**settings, name: value}, resume=True)
    ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, checkpoint=path)
    more = ml.train(tune("lora"), BATCHES, steps=4, lr=0.01, checkpoint=path, resume=True)
    assert more.losses == ml.train(tune("lora"), BATCHES, steps=4, lr=0.01).losses


def test_numpy_s_numbers_go_into_a_checkpoint(tmp_path):
    """As settings, as options, as the seed and as what evaluate returns."""
    path = tmp_path / "run.safetensors"
    settings = dict(steps=np.int64(2), lr=np.float64(0.01), clip=np.float32(1), warmup=np.int8(1))
    options = dict(rank=np.int64(4), alpha=np.float64(6), dropout=np.float64(0.1))
    tuned = tune("lora", base("float32"), seed=np.int64(3), **options)
    history = ml.train(
        tuned,
        BATCHES,
        **settings,
        evaluate=lambda t: {"sum": np.float32(1.5), "all": np.arange(2)},
        evaluate_every=1,
        checkpoint=path,
    )
    assert all(a.dtype == np.float32 for a in tuned.trainable.values())
    ml.save_adapter(tuned, tmp_path)
    again = tune("lora", base("float32"), seed=3, rank=4, alpha=6, dropout=0.1)
    resumed = ml.train(again, BATCHES, **settings, checkpoint=path, resume=True)
    assert resumed.losses == history.losses
    assert resumed.evaluations[-1] == (2, {"sum": 1.5, "all": [0, 1]})
    with pytest.raises(TypeError, match="evaluate returned a set"):
        ml.train(tune("lora"), BATCHES, **settings, evaluate=lambda t: {1}, checkpoint=path)


def test_how_often_without_what():
    for name in ("evaluate", "checkpoint"):
        with pytest.raises(ValueError, match=f"{name}_every is 2, but {name} is not given"):
            ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, **{f"{name}_every": 2})


def test_resume_into_arrays_that_went_on(tmp_path):
    """A checkpoint from before Delta-LoRA's W moved takes back the start factors too."""
    path = tmp_path / "run.safetensors"
    settings = dict(lr=0.01, checkpoint=path)
    tuned = tune("delta_lora", start_step=3)
    ml.train(tuned, BATCHES, steps=2, **settings)
    wanted = copies(tuned.arrays)
    ml.train(tuned, BATCHES, steps=5, lr=0.01)
    checkpoints.load(path, tuned, optim.AdamW(tuned.trainable), {})
    assert same_bits(tuned.arrays, wanted)


def test_a_finished_run_resumes_to_itself(tmp_path):
    path = tmp_path / "run.safetensors"
    tuned = tune("vera")
    history = ml.train(tuned, BATCHES, steps=3, lr=0.01, checkpoint=path)
    again = tune("vera")
    assert ml.train(again, BATCHES, steps=3, lr=0.01, checkpoint=path, resume=True) == history
    assert same_bits(again.arrays, tuned.arrays)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_keeps_the_old_checkpoint(error, tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, checkpoint=path)
    before = path.read_bytes()

    def fail(*_):
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        ml.train(tune("lora"), BATCHES, steps=3, lr=0.01, checkpoint=path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["run.safetensors"]


def test_a_kill_while_checkpointing_keeps_the_old_one(tmp_path):
    """The process ends, without any clean-up, in the middle of writing the second checkpoint."""
    path = tmp_path / "run.safetensors"
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from battery import BATCHES, ml, tune
written = []
real = os.fsync
os.fsync = lambda handle: os._exit(9) if len(written) > 2 else written.append(real(handle))
ml.train(tune("lora"), BATCHES, steps=6, lr=0.01, checkpoint={str(path)!r}, checkpoint_every=2)
"""
    root = str(Path(__file__).parents[2])
    ended = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": root})
    assert ended.returncode == 9
    resumed, whole = tune("lora"), tune("lora")
    history = ml.train(resumed, BATCHES, steps=6, lr=0.01, checkpoint=path, resume=True)
    assert history.losses == ml.train(whole, BATCHES, steps=6, lr=0.01).losses
    assert same_bits(resumed.arrays, whole.arrays)


# ---------------------------------------- checkpoints of other runs, and damaged ones


def saved_run(path, steps=3):
    ml.train(tune("lora"), BATCHES, steps=steps, lr=0.01, checkpoint=path)


def test_other_batches_and_fewer_steps_are_another_run(tmp_path):
    path = tmp_path / "run.safetensors"
    saved_run(path)
    with pytest.raises(ValueError, match="the first 3 batches are not those of the checkpoint"):
        ml.train(tune("lora"), BATCHES[::-1], steps=5, lr=0.01, checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="saved at step 3, but this run ends at 2"):
        ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, checkpoint=path, resume=True)
    ml.train(tune("lora"), BATCHES, steps=5, lr=0.01, checkpoint=path, resume=True)


def rewritten(path, damage, seal=True):
    """The checkpoint again after damage(metadata, arrays); seal: with a right checksum."""
    from minilora.formats.safetensors import read_arrays, write_arrays

    arrays, about = read_arrays(path)
    inner = json.loads(about[checkpoints.ABOUT])
    arrays = {k: a.copy() for k, a in arrays.items()}
    damage(inner, arrays)
    about[checkpoints.ABOUT] = json.dumps(inner)
    if seal:
        about[checkpoints.CHECKSUM] = checkpoints.checksum(arrays, about[checkpoints.ABOUT])
    write_arrays(path, arrays, about)


def of(arrays, start, end=""):
    """The first of the arrays' names that starts and ends so."""
    return next(k for k in arrays if k.startswith(start) and k.endswith(end))


def replace_by(start, end, make):
    """Damage: another array in the place of the one whose name starts and ends so."""

    def damage(about, arrays):
        name = of(arrays, start, end)
        arrays[name] = make(arrays[name])

    return damage


DAMAGES = {
    "no steps": ("lora", lambda about, arrays: about.pop("steps"), "no steps in it"),
    "no history": ("lora", lambda about, arrays: about.pop("history"), "no history in it"),
    "no losses": (
        "lora",
        lambda about, arrays: about["history"].pop("losses"),
        "no history.losses in it",
    ),
    "no pattern": ("lora", lambda about, arrays: about.pop("rank_pattern"), "rank_pattern is None"),
    "negative step": ("lora", lambda about, arrays: about.update(steps=-5), "at step -5"),
    "no moment": ("lora", lambda about, arrays: arrays.pop(of(arrays, "m.")), r"m\..*: got none"),
    "moment of a shape": ("lora", replace_by("m.", "", lambda a: np.ones((3, 3))), r"m\..*: got"),
    "moment of a dtype": (
        "lora",
        replace_by("v.", "", lambda a: a.astype(np.float32)),
        r"v\..*: got .* of float32, wanted .* of float64",
    ),
    "moment of NaN": ("lora", replace_by("m.", "", lambda a: a * np.nan), r"m\..* not finite"),
    "negative squares": (
        "lora",
        replace_by("v.", "", lambda a: a - 1),
        r"v\..*, a mean of squares, has the negative number -",
    ),
    "a row less of A": (
        "vera",
        replace_by("array.base_model.vera_A", "", lambda a: a[:1, :1]),
        r"array.base_model.vera_A: got \(1, 1\) of float64, wanted \(3, 24\)",
    ),
    "a frozen A of NaN": (
        "lora_fa",
        replace_by("array.", "lora_A.weight", lambda a: a * np.nan),
        "lora_A.weight has numbers that are not finite",
    ),
    "a scaling": (
        "lora",
        lambda about, arrays: arrays.update(
            {of(arrays, "array.", "lora_A.weight").replace("lora_A.weight", "s"): np.ones(())}
        ),
        r"its array array\..*\.s does not belong",
    ),
    "a weight that did not move": (
        "delta_lora",
        lambda about, arrays: arrays.pop(of(arrays, "array.", "base_layer.weight")),
        "array.*base_layer.weight: got none",
    ),
    "one start factor less": (
        "delta_lora",
        lambda about, arrays: arrays.pop(of(arrays, "array.", "A_start")),
        "array.*A_start: got none",
    ),
    "a start factor of a shape": (
        "delta_lora",
        replace_by("array.", "B_start", lambda a: a[:1]),
        "array.*B_start: got",
    ),
    "a loss less": (
        "lora",
        lambda about, arrays: about["history"]["losses"].pop(),
        "history.losses has 2 entries, wanted 3",
    ),
    "a step more": (
        "lora",
        lambda about, arrays: about.update(steps=4),
        "history.losses has 3 entries, wanted 4",
    ),
    "an evaluation of a later step": (
        "lora",
        lambda about, arrays: about["history"].update(evaluations=[[4, 0.5]]),
        r"history.evaluations\[0\] is \[4, 0.5\]",
    ),
    "an evaluation of no step": (
        "lora",
        lambda about, arrays: about["history"].update(evaluations=[["a", 0.5]]),
        r"history.evaluations\[0\]",
    ),
}


@pytest.mark.parametrize("name, damage, says", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_told_in_a_line(tmp_path, name, damage, says):
    """Also one whose checksum is right: a file is a stranger's as long as it is not checked."""
    path = tmp_path / "run.safetensors"
    ml.train(tune(name), BATCHES, steps=3, lr=0.01, checkpoint=path)
    rewritten(path, damage)
    tuned = tune(name)
    before = copies(tuned.arrays)
    with pytest.raises(ValueError, match=says) as found:
        ml.train(tuned, BATCHES, steps=5, lr=0.01, checkpoint=path, resume=True)
    assert str(path) in str(found.value) and "\n" not in str(found.value)
    assert same_bits(tuned.arrays, before)


ADAPTER_DAMAGES = {
    "not sealed": (lambda about, arrays: about["history"]["losses"].pop(), "damaged: its checksum"),
    "a rank of 10¹²": (lambda about, arrays: about.update(rank=10**12), "array.*1000000000000"),
    "a method of none": (lambda about, arrays: about.update(method="lor"), "'lor' is unknown here"),
    "no base": (lambda about, arrays: about.pop("base"), "no base in it"),
    "a moment less": (lambda about, arrays: arrays.pop(of(arrays, "v.")), r"v\..*: got none"),
}


@pytest.mark.parametrize("damage, says", ADAPTER_DAMAGES.values(), ids=ADAPTER_DAMAGES)
def test_a_damaged_checkpoint_is_no_adapter(tmp_path, damage, says):
    """What is checked before a run goes on is checked before its adapter is used."""
    path = tmp_path / "run.safetensors"
    ml.train(tune("delta_lora"), BATCHES, steps=3, lr=0.01, checkpoint=path)
    ml.load_adapter(base(), path)
    rewritten(path, damage, seal="checksum" not in says)
    with pytest.raises(ValueError, match=says) as found:
        ml.load_adapter(base(), path)
    assert str(found.value).count(str(path)) == 1 and "\n" not in str(found.value)


def test_a_changed_number_is_noticed(tmp_path):
    path = tmp_path / "run.safetensors"
    saved_run(path)

    def damage(about, arrays):
        name = of(arrays, "array.", "lora_A.weight")
        arrays[name][0, 0] = np.nextafter(arrays[name][0, 0], 1)

    rewritten(path, damage, seal=False)
    with pytest.raises(ValueError, match=r"damaged: its checksum is '[0-9a-f]{8}', its contents"):
        ml.train(tune("lora"), BATCHES, steps=5, lr=0.01, checkpoint=path, resume=True)


def test_a_run_of_another_machine_goes_on_with_a_warning(tmp_path):
    path = tmp_path / "run.safetensors"
    saved_run(path)
    rewritten(path, lambda about, arrays: about.update(kernels="others", blas_threads=77))
    with pytest.warns(UserWarning, match="but its bits differ") as told:
        ml.train(tune("lora"), BATCHES, steps=5, lr=0.01, checkpoint=path, resume=True)
    for said in ("kernels: 'others' when it was saved", "BLAS threads: 77 when it was saved"):
        assert any(said in str(warning.message) for warning in told)
