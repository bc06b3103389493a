"""Training and generation at the limits of their settings."""

import importlib
import inspect
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from battery import BATCHES, base, shake, tune
from conftest import make_llama

import minilora as ml
from minilora.llama import generation
from minilora.text.tokenizer import CharTokenizer
from minilora.tuning.callbacks import Callback
from minilora.tuning.divergence import Diverged
from minilora.tuning.optim import AdamW, clip_factor, learning_rate

# its name in the package is a function
training = importlib.import_module("minilora.tuning.train")

# ---------------------------------------- training


@pytest.mark.parametrize("kept", [True, False])
def test_an_interrupted_run_says_where_it_goes_on(kept, tmp_path):
    class CtrlC(Callback):
        def step(self, run):
            signal.raise_signal(signal.SIGINT)

    path = tmp_path / "run.safetensors" if kept else None
    with pytest.raises(KeyboardInterrupt) as caught:
        ml.train(tune("lora"), BATCHES, steps=3, lr=0.01, checkpoint=path, callbacks=[CtrlC()])
    goes_on = f"; resume=True goes on from {path}" if kept else ""
    assert str(caught.value) == f"train: stopped after step 1 of 3{goes_on}"


class AtTheFirstStep(Callback):
    """Calls a function while the first step of a run ends."""

    def __init__(self, act):
        self.act = act

    def step(self, run):
        if run.step == 1:
            self.act()


def two_steps(*callbacks):
    return ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, callbacks=callbacks)


def test_a_second_ctrl_c_stops_at_once_and_afterwards_it_is_python_s_again():
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        two_steps(AtTheFirstStep(twice))
    assert str(caught.value) == ""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    two_steps()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ctrl_c_that_is_not_python_s_stays():
    def mine(number, frame):
        seen.append(number)

    seen, before = [], signal.signal(signal.SIGINT, mine)
    try:
        two_steps(AtTheFirstStep(lambda: signal.raise_signal(signal.SIGINT)))
        assert seen == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_trains_without_signals():
    found = []
    thread = threading.Thread(target=lambda: found.append(two_steps()))
    thread.start()
    thread.join()
    assert len(found) == 1 and len(found[0].losses) == 2


@pytest.mark.parametrize("batch", [np.zeros((2, 3, 4), int), (*BATCHES[0], BATCHES[0][0]), 3])
def test_a_batch_is_a_pair(batch):
    with pytest.raises(ValueError, match=r"got a batch of \w+, wanted a pair"):
        training.gradients(tune("lora"), [batch])


@pytest.mark.parametrize("betas", [(0.9, 1.0), (1.0, 0.9), (-0.1, 0.9), (0.9,), 0.9])
def test_betas_are_two_numbers_below_1(betas):
    ml.train(tune("lora"), BATCHES, steps=1, lr=0.01, betas=(0, 0))
    with pytest.raises(ValueError, match=r"betas is .*, wanted two numbers in \[0, 1\)"):
        ml.train(tune("lora"), BATCHES, steps=1, lr=0.01, betas=betas)


@pytest.mark.parametrize(
    "wrong", [{"accumulate": 0}, {"steps": 0}, {"eps": 0}, {"clip": 0}, {"warmup": -1}], ids=str
)
def test_settings_below_their_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=f"train: {next(iter(wrong))}"):
        ml.train(tune("lora"), BATCHES, **{"steps": 1, "lr": 0.0, **wrong})


def test_nothing_is_done_every_0_steps(tmp_path):
    for what, value in {"evaluate": lambda tuned: 0.0, "checkpoint": tmp_path / "x"}.items():
        with pytest.raises(ValueError, match=f"train: {what}_every"):
            ml.train(tune("lora"), BATCHES, steps=1, lr=0.0, **{what: value, f"{what}_every": 0})


def test_a_callback_saves_a_run_that_has_no_checkpoint_of_its_own(tmp_path):
    class Saves(Callback):
        def step(self, run):
            run.save(tmp_path / f"{run.step}.safetensors")

    wanted = two_steps(Saves()).losses
    how = {"steps": 2, "lr": 0.01, "checkpoint": tmp_path / "1.safetensors", "resume": True}
    assert ml.train(tune("lora"), BATCHES, **how).losses == wanted


def test_arrays_that_are_not_finite_are_not_written(tmp_path):
    tuned, path = tune("lora"), tmp_path / "run.safetensors"
    first = next(iter(tuned.trainable.values()))
    spoil = AtTheFirstStep(lambda: first.fill(np.nan))
    with pytest.raises(Diverged, match="step 1"):
        ml.train(tuned, BATCHES, steps=1, lr=0.01, checkpoint=path, callbacks=[spoil])
    assert not path.exists()


def test_the_seconds_of_the_steps_are_those_of_the_run():
    start = time.perf_counter()
    seconds = two_steps().seconds
    assert min(seconds) > 0 and sum(seconds) <= time.perf_counter() - start


def test_one_target_is_enough_and_none_is_refused():
    ids, targets = BATCHES[0][0], np.full_like(BATCHES[0][0], -100)
    with pytest.raises(ValueError, match="step 1: no target counts, all are -100"):
        training.gradients(tune("lora"), [(ids, targets)])
    targets[0, 0] = 3
    assert training.gradients(tune("lora"), [(ids, targets)])[0] > 0


def test_a_warm_up_as_long_as_the_run_reaches_the_rate():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, warmup=2)
    assert history.rates == [0.005, 0.01]
    with pytest.warns(UserWarning, match="warmup is 3, steps is 2: the rate never reaches lr"):
        ml.train(tune("lora"), BATCHES, steps=2, lr=0.01, warmup=3)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_corrected_gradient_reaches_the_step_once(clip):
    """With a huge eps AdamW's first step is -lr·g/eps: the gradient that it got shows."""
    tuned = shake(tune("lora_fa", corrected=True))
    _, grads = training.gradients(tuned, BATCHES[:1])
    factor = 1.0 if clip is None else clip_factor(grads, clip)
    wanted = {}
    for name, arrays in tuned.layers.items():
        key = tuned.key(name, "B")
        rule = {"B": factor * grads[key]}
        tuned.record.grad_rule(arrays, rule, tuned.options)
        wanted[key] = rule["B"]
    start = {key: a.copy() for key, a in tuned.trainable.items()}
    ml.train(tuned, BATCHES[:1], steps=1, lr=1e9, eps=1e9, betas=(0.0, 0.0), clip=clip)
    for key, a in tuned.trainable.items():
        assert np.abs(a - start[key] + wanted[key]).max() < 1e-6 * np.abs(wanted[key]).max() + 1e-12


def test_adamw_has_torch_s_defaults():
    for function in (AdamW, ml.train):
        defaults = {k: p.default for k, p in inspect.signature(function).parameters.items()}
        assert defaults["betas"] == (0.9, 0.999) and defaults["eps"] == 1e-8
        assert defaults["weight_decay"] == 0.0


def test_an_array_of_a_larger_rate_moves_as_many_times_as_far():
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    AdamW(params, scale={"b": 16.0}).step({name: np.ones(3) for name in params}, lr=0.01)
    assert np.allclose(params["a"], -0.01) and np.allclose(params["b"], -0.16)


# ---------------------------------------- generation


@pytest.mark.parametrize(
    "temperature, top_p, u, token",
    [
        (1.0, 1.0, 0.0, 1),
        (1.0, 1.0, 0.49, 1),
        (1.0, 1.0, 0.51, 2),
        (1.0, 1.0, 0.79, 2),
        (1.0, 1.0, 0.81, 0),
        (1.0, 0.49, 0.99, 1),  # the first alone
        (1.0, 0.51, 0.99, 2),  # the first two
        (1.0, 0.79, 0.62, 1),  # of 0.8, the first has 0.625
        (1.0, 0.81, 0.99, 0),
        (2.0, 1.0, 0.45, 2),  # the shares are as the square roots: 0.415, 0.322, 0.263
        (0.0, 1.0, 0.99, 1),
    ],
)
def test_a_token_is_drawn_by_its_share(temperature, top_p, u, token):
    logits = np.log([[0.2, 0.5, 0.3]])
    chosen = generation._choose(logits, temperature, top_p, np.array([[u]]))
    assert chosen.tolist() == [token]


@pytest.mark.parametrize("top_p, u, token", [(0.5, 0.99, 0), (0.51, 0.99, 1), (1.0, 0.5, 0)])
def test_of_two_equal_tokens_the_first_is_drawn_up_to_the_half(top_p, u, token):
    assert generation._choose(np.zeros((1, 2)), 1.0, top_p, np.array([[u]])).tolist() == [token]


def test_a_draw_from_huge_logits():
    logits = np.array([[-1e4, 1e4, 1e4]])
    assert generation._choose(logits, 1.0, 1.0, np.array([[0.9]])).tolist() == [2]


def test_a_row_that_ended_with_token_0_repeats_it(monkeypatch):
    drawn = iter([[0, 5], [7]])
    monkeypatch.setattr(generation, "_choose", lambda *_: np.array(next(drawn)))
    found = base().generate(np.array([[1], [2]]), 2, stop=0)
    assert found.tolist() == [[1, 0, 0], [2, 5, 7]]


def test_two_prompts_of_two_lengths():
    found = base().generate([[1, 2], [3]], 2)
    alone = [base().generate(np.array([ids]), 2)[0] for ids in ([1, 2], [3])]
    assert [row.tolist() for row in found] == [row.tolist() for row in alone]


def test_a_text_wants_a_tokenizer_and_a_prompt():
    with pytest.raises(ValueError, match="generate_text: the model has no tokenizer"):
        base().generate_text("a")
    model = make_llama(tokenizer=CharTokenizer(("<pad>", "\n", *map(chr, range(97, 124)))))
    assert isinstance(model.generate_text("a", 2), str)
    with pytest.raises(ValueError, match="generate_text: prompt is '', wanted some text"):
        model.generate_text("")


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.01}, {"temperature": float("nan")}]
)
def test_settings_of_a_draw_have_their_ranges(wrong):
    model, ids = base(), np.array([[0, 28]])  # the first and the last token
    assert model.generate(ids, 1, temperature=0.0, top_p=1.0).shape == (1, 3)
    assert model.generate(ids, 0).shape == (1, 2)
    with pytest.raises(ValueError, match="generate: temperature"):
        model.generate(ids, 1, **wrong)


@pytest.mark.parametrize("ids", [[[-1]], [[29]], [], [[]], [[0.5]], [0], [[[0]]]])
def test_ids_that_are_none(ids):
    with pytest.raises(ValueError, match="ids: "):
        base().generate(np.array(ids), 1)


def test_an_ended_row_repeats_the_stop_and_all_ended_rows_end_the_text():
    model, ids = base(), np.array([[1, 2], [3, 4], [5, 6]])
    told, free = [], model.generate(ids, 6)[:, 2:]
    stop = int(free[0, 1])
    found = model.generate(ids, 6, stop=stop, on_token=lambda token: told.append(token.copy()))
    ends = [row.tolist().index(stop) if stop in row else 6 for row in free]
    wanted = [row.tolist()[:end] + [stop] * (6 - end) for row, end in zip(free, ends, strict=True)]
    length = min(6, max(ends) + 1)
    assert found[:, 2:].tolist() == [row[:length] for row in wanted]
    assert np.array_equal(np.stack(told, axis=1), found[:, 2:])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_rate_that_falls_in_one_step_ends_at_0(schedule):
    assert learning_rate(3, lr=1.0, steps=3, schedule=schedule, warmup=2) == 0
