"""train, generate, merge: fine-tune a model on text, and use the adapter."""

import sys
from argparse import Namespace
from pathlib import Path

from ..support.files import find
from ..support.locks import using
from ..support.values import whole
from .arguments import adapter_options, command, given, options

BASE = "'base', smollm2-135m, a model's folder or a .gguf file (%(default)s)"


def add(commands) -> None:
    """Add these commands to the parser."""
    _add_train(commands)

    p = command(commands, "generate", generate, "continue a prompt")
    p.add_argument("--base", default="base", help=BASE)
    p.add_argument("--adapter", type=Path, help="a folder made by train, compare or PEFT")
    p.add_argument("--prompt", required=True, help="the text; with --task only the word")
    p.add_argument("--task", help="ask as this task asks: tag + word + '>'")
    p.add_argument("--chat", action="store_true", help="put the prompt into the chat template")
    p.add_argument("--max-new-tokens", type=int, default=32, help="(%(default)s)")
    p.add_argument("--speed", action="store_true", help="print tokens/s, and the memory's limit")
    p.add_argument("--temperature", type=float, default=0.0, help="0: no sampling (%(default)s)")
    p.add_argument("--top-p", type=float, default=1.0, help="(%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")

    p = command(commands, "merge", merge, "write the base with the adapter's change added in")
    p.add_argument("--base", default="base", help=BASE)
    p.add_argument("--adapter", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True, help="folder of the merged model")


def _add_train(commands):
    p = command(commands, "train", train, "fine-tune on a task or your own file; writes an adapter")
    p.add_argument("--base", default="base", help=BASE)
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="JSONL or CSV with prompt and completion")
    source.add_argument("--task", help="a task of the word lab")
    p.add_argument("--eval", type=Path, help="JSONL or CSV to score on (a task's test words)")
    adapter_options(p, "lora")
    p.add_argument("--recompute", metavar="WHAT", help="less memory, more time: layers or swiglu")
    p.add_argument("--alpha", type=float, help="scaling alpha (2·rank)")
    p.add_argument("--steps", type=int, default=150, help="optimizer steps (%(default)s)")
    p.add_argument("--batch-size", type=int, default=32, help="pairs a step (%(default)s)")
    p.add_argument("--lr", type=float, help="peak learning rate (what minilora tune chose)")
    p.add_argument("--schedule", default="linear", help="constant, linear or cosine (%(default)s)")
    p.add_argument("--warmup", type=int, default=15, help="steps (%(default)s)")
    p.add_argument("--weight-decay", type=float, default=0.01, help="(%(default)s)")
    p.add_argument("--clip", type=float, default=1.0, help="of the global norm (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    p.add_argument("--checkpoint", type=Path, help="file for the state of the run")
    p.add_argument("--checkpoint-every", type=int, help="steps")
    p.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    p.add_argument("--out", type=Path, default=Path("runs/adapter"), help="folder (%(default)s)")


def _load_base(a):
    """The base; raises ValueError if it has no tokenizer."""
    import minilora as ml

    model = ml.load_model(a.base)
    if model.tokenizer is None:
        raise ValueError(f"{a.base}: the model has no tokenizer.json, so text cannot be read")
    return model


def train(a: Namespace) -> None:
    """Fine-tune, print the score, write the adapter."""
    import minilora as ml

    whole("--steps", a.steps, 1)
    whole("--batch-size", a.batch_size, 1)
    model = _load_base(a)
    pairs, held_out = _pairs(a)
    if held_out:
        # an unreadable pair is an error now, not after the training
        ml.batches(held_out, model.tokenizer, len(held_out))
    with using(a.out, a.checkpoint):
        _train(a, model, pairs, held_out)


def _train(a, model, pairs, held_out):
    import minilora as ml

    from ..text import tasks

    how = given(a, "rank", "alpha", "targets", "recompute") | options(a.option, a.method)
    tuned = ml.attach(model, a.method, seed=a.seed, **how)
    history = ml.train(
        tuned,
        tasks.enough_batches(a.steps, pairs, model.tokenizer, a.batch_size, a.seed, by_length=8),
        steps=a.steps,
        lr=_tuned_rate(a.method) if a.lr is None else a.lr,
        schedule=a.schedule,
        warmup=min(a.warmup, a.steps // 10),
        weight_decay=a.weight_decay,
        betas=(0.9, 0.98),
        clip=a.clip,
        checkpoint=a.checkpoint,
        checkpoint_every=a.checkpoint_every,
        resume=a.resume,
    )
    size = ml.save_adapter(tuned, a.out)
    numbers = sum(x.size for x in tuned.trainable.values())
    scaling = f", alpha {tuned.alpha:g}{_scaling(tuned)}" if tuned.alpha else ""
    rank = f", rank {tuned.rank}" if tuned.rank else ""
    what = f"{tuned.record.title}{rank}{scaling}"
    losses = history.losses
    print(f"{what}: {numbers:,} trainable numbers on {len(pairs):,} pairs")
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} in {len(losses)} steps")
    if held_out:
        score = ml.exact_match(tuned, held_out)
        print(f"exact match on {len(held_out):,} held-out pairs: {score:.3f}")
    print(f"adapter: {a.out} ({size:,} bytes)")


def _pairs(a):
    """Pairs to train on, and held-out pairs, from the task or the user's files."""
    from ..text import tasks

    if a.data is None:
        data = tasks.load_task(a.task)
        pairs, held_out = data.train, data.test
    else:
        pairs, held_out = list(tasks.read_pairs(a.data)), []
    return pairs, list(tasks.read_pairs(a.eval)) if a.eval else held_out


def _tuned_rate(method: str) -> float:
    """The rate that `tune` chose for the method on the word lab: a first guess for other data."""
    from ..lab import rates

    chosen = rates.chosen_for(rates.DEFAULT_TASK, rates.read())
    return chosen[method]["lr"] if method in chosen else 1e-2


def _scaling(tuned):
    """The scaling s as text, if all layers have the same."""
    scalings = {arrays["s"] for arrays in tuned.layers.values()}
    return f", s = {scalings.pop():g}" if len(scalings) == 1 else ""


def generate(a: Namespace) -> None:
    """Print the continuation of the prompt, token by token."""
    import minilora as ml

    from ..bench import decoding, machine

    model = _load_base(a)
    if a.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {a.max_new_tokens}, wanted at least 1")
    answering = ml.load_adapter(model, a.adapter) if a.adapter else model
    stream, clock = _Stream(model.tokenizer), decoding.Clock()
    # as many bytes as one token reads, and more than a processor's cache can hold
    size = max(1 << 28, decoding.token_bytes(model))
    before = machine.read_bandwidth(nbytes=size) if a.speed else 0.0

    def on_token(token):
        clock(token)
        stream(token)

    answering.generate(
        [model.tokenizer.encode(_prompt(a, model.tokenizer))],
        a.max_new_tokens,
        temperature=a.temperature,
        top_p=a.top_p,
        seed=a.seed,
        stop=model.tokenizer.eos_id,
        on_token=on_token,
    )
    stream.end()
    if a.speed:
        bandwidth = max(before, machine.read_bandwidth(nbytes=size))
        print(clock.line(model, bandwidth), file=sys.stderr)


def _prompt(a, tokenizer):
    """The text to continue: the prompt itself, or the prompt of a task or a chat with it."""
    from ..text import tasks

    prompt = a.prompt
    if a.task is not None:
        prompt = find("task", a.task, tasks.TASKS).prompt(prompt)
    if a.chat and not hasattr(tokenizer, "chat"):
        raise ValueError(f"{a.base}: its tokenizer has no chat template")
    return tokenizer.chat(prompt) if a.chat else prompt


class _Stream:
    """Prints the text of tokens as they come; a character of several tokens once it is complete."""

    def __init__(self, tokenizer):
        self.tokenizer, self.printed = tokenizer, ""
        self.ids: list[int] = []

    def __call__(self, token):
        if (last := int(token[0])) != self.tokenizer.eos_id:
            self.ids.append(last)
            self.show(self.tokenizer.decode(self.ids).rstrip("\ufffd"))

    def show(self, text: str) -> None:
        """Print the part of the text that is not yet printed."""
        print(text[len(self.printed) :], end="", flush=True)
        self.printed = text

    def end(self) -> None:
        """Print the rest, and a newline."""
        self.show(self.tokenizer.decode(self.ids))
        print()


def merge(a: Namespace) -> None:
    """Write the merged model."""
    import minilora as ml

    tuned = ml.load_adapter(ml.load_model(a.base), a.adapter)
    merged = ml.merge(tuned)
    ml.save_model(merged, a.out)
    changed = [n for n, w in merged.params.items() if w is not tuned.base.params[n]]
    print(f"{tuned.record.title} merged into {len(changed)} arrays: {a.out}")
