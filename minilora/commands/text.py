"""generate, merge, ask: use an adapter."""

import argparse
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from ..llama.generation import cut, decode_more
from ..support.files import find
from . import config
from .arguments import OWN, command, form_options, forms, given

BASE = "'base', smollm2-135m, a model's folder or a .gguf file (%(default)s)"
METHOD = f"the technique of the adapter, {OWN} (the one that its files name)"
ADAPTER = "an adapter's folder (from train, compare or PEFT) or a checkpoint"


def add(commands) -> None:
    """Add these commands to the parser."""
    p = command(commands, "generate", generate)
    p.add_argument("--base", default="base", help=BASE)
    form_options(p)
    p.add_argument("--adapter", type=Path, help=ADAPTER)
    p.add_argument("--method", help=METHOD)
    p.add_argument("--prompt", required=True, help="the text; with --task only the word")
    p.add_argument("--task", help="write the prompt as this task does: tag + word + '>'")
    chat = "put the prompt into the chat template (as the adapter's run.toml says)"
    p.add_argument("--chat", action=argparse.BooleanOptionalAction, help=chat)
    p.add_argument("--system", metavar="TEXT", help="the system message of the chat")
    p.add_argument("--max-new-tokens", type=int, default=32, help="most new tokens (%(default)s)")
    p.add_argument("--speed", action="store_true", help="print tokens/s, and the limit by memory")
    p.add_argument("--temperature", type=float, default=0.0, help="0: no sampling (%(default)s)")
    p.add_argument("--top-k", type=int, help="sample from the K likeliest (from all)")
    p.add_argument("--top-p", type=float, help="sample the likeliest up to this probability (1.0)")
    lower = "above 1: tokens that came before are less likely (%(default)s)"
    p.add_argument("--repetition-penalty", type=float, default=1.0, metavar="X", help=lower)
    ends = "a text that ends the answer, as the end token does; may be repeated"
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help=ends)
    p.add_argument("--seed", type=int, help="seed of the sampling (0)")

    p = command(commands, "ask", ask)
    p.add_argument("word", help="a word in lowercase letters")
    each = "a folder of adapters, each named as its task (the built-in)"
    p.add_argument("--adapters", type=Path, help=each)

    p = command(commands, "merge", merge)
    p.add_argument("--base", default="base", help=BASE)
    form_options(p)
    p.add_argument("--adapter", type=Path, required=True, help=ADAPTER)
    p.add_argument("--method", help=METHOD)
    p.add_argument("--out", type=Path, help="folder of the merged model")
    p.add_argument("--gguf", type=Path, metavar="FILE", help=".gguf file of it, as for llama.cpp")
    p.add_argument(
        "--gguf-type", default="F16", help="of its matrices: F32, F16, Q8_0 (%(default)s)"
    )


def load_base(a: Namespace) -> Any:
    """The base; raises ValueError if it has no tokenizer."""
    import minilora as ml

    model = ml.load_model(a.base, **forms(a))
    if model.tokenizer is None:
        raise ValueError(f"{a.base}: the model has no tokenizer.json, so text cannot be read")
    return model


def generate(a: Namespace) -> None:
    """Print the continuation of the prompt, token by token.

    Raises ValueError for an empty prompt, a setting out of range, or a base without a tokenizer.
    """
    import minilora as ml

    from ..bench import decoding, machine

    model = load_base(a)
    if not a.prompt:
        raise ValueError("--prompt is empty, wanted some text")
    if a.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {a.max_new_tokens}, wanted at least 1")
    sampling = given(a, "top_k", "top_p", "seed")
    for name in sampling if a.temperature == 0 else ():
        option = f"--{name.replace('_', '-')}"
        warnings.warn(f"{option} does nothing at --temperature 0", stacklevel=2)
    answering = ml.load_adapter(model, a.adapter, a.method) if a.adapter else model
    prompt = model.tokenizer.encode(_prompt(a, model.tokenizer))
    stream, clock = _Stream(model.tokenizer, prompt, a.stop), decoding.Clock()
    # as many bytes as one token reads, and more than a processor's cache can hold
    size = max(1 << 28, decoding.token_bytes(model))
    before = machine.read_bandwidth(nbytes=size) if a.speed else 0.0

    def on_token(token):
        clock(token)
        stream(token)

    answering.generate(
        [prompt],
        a.max_new_tokens,
        temperature=a.temperature,
        **sampling,
        repetition_penalty=a.repetition_penalty,
        stop=[model.tokenizer.eos_id, *a.stop],
        on_token=on_token,
    )
    stream.end()
    if a.speed:
        bandwidth = max(before, machine.read_bandwidth(nbytes=size))
        print(clock.line(model, bandwidth), file=sys.stderr)


def _prompt(a, tokenizer):
    """The text to continue: --prompt, in the form of the task or of the chat."""
    from ..text import tasks

    prompt = a.prompt
    if a.task is not None:
        prompt = find("task", a.task, tasks.TASKS).prompt(prompt)
    adapter = Path(a.adapter or "")
    trained = (adapter.parent if adapter.is_file() else adapter) / config.NAME
    how = config.read(trained) if a.adapter and trained.is_file() else {}
    if not (how.get("chat") if a.chat is None else a.chat):
        if a.system is not None:
            raise ValueError("--system: wanted --chat too: a plain prompt has no system turn")
        return prompt
    if not hasattr(tokenizer, "chat"):
        raise ValueError(f"{a.base}: its tokenizer has no chat template")
    said = {"system": a.system or how.get("system"), "user": prompt}
    return tokenizer.chat([{"role": r, "content": t} for r, t in said.items() if t])


class _Stream:
    """Prints the text of each new token, up to a stop. It holds back an incomplete character, and a
    text with which a stop may begin.
    """

    def __init__(self, tokenizer, prompt: list[int], stops):
        self.tokenizer, self.prompt, self.stops, self.printed = tokenizer, prompt, stops, ""
        self.ids: list[int] = []

    def __call__(self, token):
        if (last := int(token[0])) != self.tokenizer.eos_id:
            self.ids.append(last)
            text = decode_more(self.tokenizer, self.prompt, self.ids).rstrip("\ufffd")
            begun = (n for stop in self.stops for n in range(len(stop)) if text.endswith(stop[:n]))
            self.show(text[: len(text) - max(begun, default=0)])

    def show(self, text: str) -> None:
        """Print the part of the text, up to a stop, that is not yet printed."""
        text = cut(text, self.stops)
        print(text[len(self.printed) :], end="", flush=True)
        self.printed = text

    def end(self) -> None:
        """Print the rest, and a newline."""
        self.show(decode_more(self.tokenizer, self.prompt, self.ids))
        print()


def merge(a: Namespace) -> None:
    """Write the merged model. Raises FileNotFoundError, or ValueError for a damaged file, an
    unknown type of weights, or if neither --out nor --gguf is given.
    """
    import minilora as ml

    if not (a.out or a.gguf):
        raise ValueError("merge: wanted --out FOLDER, --gguf FILE or both")
    tuned = ml.load_adapter(ml.load_model(a.base, **forms(a)), a.adapter, a.method)
    merged = ml.merge(tuned)
    if a.gguf:
        ml.save_gguf(merged, a.gguf, a.gguf_type)
    if a.out:
        ml.save_model(merged, a.out)
    changed = [n for n, w in merged.params.items() if w is not tuned.base.params[n]]
    places = ", ".join(str(place) for place in (a.out, a.gguf) if place)
    print(f"{tuned.record.title} merged into {len(changed)} arrays: {places}")


def ask(a: Namespace) -> None:
    """Print each task's answer to the word. Raises ValueError unless it has only letters a-z."""
    from ..lab import word_adapters
    from ..text import tasks

    if not (a.word.isascii() and a.word.isalpha() and a.word.islower()):
        raise ValueError(f"ask: got {a.word!r}, wanted a word in lowercase letters a-z")
    library = word_adapters.open_library(a.adapters)
    for name, answer in word_adapters.ask(library, a.word).items():
        who = "adapter" if name in library else "base"
        print(f"{tasks.TASKS[name].title:24} {answer:20} {who}")
