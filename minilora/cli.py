"""`minilora …`: the commands. Each parses its arguments, calls the package, prints;
an error is one line and exit code 2.
"""

import argparse
import sys
import warnings
from pathlib import Path

from . import __version__
from . import commands as run
from .methods import METHODS


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 after a one-line error."""
    arguments = parser().parse_args(argv)
    warnings.showwarning = _show_warning
    try:
        arguments.command(arguments)
    except (ValueError, OSError, AssertionError, MemoryError) as error:
        print(f"minilora: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minilora: stopped", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="minilora",
        description="Five ways to fine-tune a language model, to read, check and time.",
    )
    top.add_argument("--version", action="version", version=f"minilora {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    p = _command(
        commands,
        "compare",
        run.compare,
        "all methods on the same words: who learned what, at what cost",
    )
    _comparison_options(p)
    p.add_argument(
        "--out",
        type=Path,
        default=Path("runs/compare"),
        help="folder for the results (%(default)s)",
    )
    p.add_argument(
        "--lr", action="append", default=[], metavar="METHOD=RATE", help="instead of the tuned rate"
    )

    p = _command(commands, "tune", run.tune, "the sweep of learning rates on validation words")
    _comparison_options(p)
    p.add_argument(
        "--out", type=Path, default=Path("runs/tuning.json"), help="the record (%(default)s)"
    )

    p = _command(
        commands, "report", run.report, "draw the figures and the page of a comparison again"
    )
    p.add_argument("folder", type=Path, help="a folder made by compare")

    p = _command(commands, "pretrain", run.pretrain, "make the word lab's base from its words")
    p.add_argument(
        "--out", type=Path, default=Path("runs/base"), help="folder of the model (%(default)s)"
    )
    p.add_argument("--steps", type=int, help="optimizer steps")
    p.add_argument("--seed", type=int, help="of the weights and the order of the words")

    p = _command(
        commands, "train", run.train, "fine-tune on a task or on your own file; writes an adapter"
    )
    p.add_argument("--base", default="base", help="'base' or a model's folder (%(default)s)")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="JSONL or CSV with prompt and completion")
    source.add_argument("--task", help="a task of the word lab")
    p.add_argument(
        "--eval", type=Path, help="JSONL or CSV to score on (a task brings its own words)"
    )
    p.add_argument("--method", default="lora", help=f"{', '.join(METHODS)} (%(default)s)")
    p.add_argument("--rank", type=int, help="rank of the adapter")
    p.add_argument("--alpha", type=float, help="scaling alpha; 2·rank where not given")
    p.add_argument("--targets", type=_names, help="q_proj,v_proj,… or all-linear")
    p.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the method"
    )
    p.add_argument("--steps", type=int, default=150, help="optimizer steps (%(default)s)")
    p.add_argument("--batch-size", type=int, default=32, help="pairs a step (%(default)s)")
    p.add_argument(
        "--lr", type=float, help="peak learning rate; what minilora tune chose where not given"
    )
    p.add_argument("--schedule", default="linear", help="constant, linear or cosine (%(default)s)")
    p.add_argument("--warmup", type=int, default=15, help="steps (%(default)s)")
    p.add_argument("--weight-decay", type=float, default=0.01, help="(%(default)s)")
    p.add_argument("--clip", type=float, default=1.0, help="of the global norm (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    p.add_argument("--checkpoint", type=Path, help="file to keep the state in")
    p.add_argument("--checkpoint-every", type=int, help="steps")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    p.add_argument(
        "--out", type=Path, default=Path("runs/adapter"), help="folder of the adapter (%(default)s)"
    )

    p = _command(commands, "generate", run.generate, "continue a prompt")
    p.add_argument("--base", default="base", help="'base' or a model's folder (%(default)s)")
    p.add_argument("--adapter", type=Path, help="a folder made by train, compare or PEFT")
    p.add_argument("--prompt", required=True, help="for a task: the word alone")
    p.add_argument("--task", help="ask as this task asks: tag + word + '>'")
    p.add_argument("--max-new-tokens", type=int, default=32, help="(%(default)s)")
    p.add_argument(
        "--temperature", type=float, default=0.0, help="0: the likeliest token (%(default)s)"
    )
    p.add_argument("--top-p", type=float, default=1.0, help="(%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="(%(default)s)")

    p = _command(commands, "merge", run.merge, "write the base with the adapter's change added in")
    p.add_argument("--base", default="base", help="'base' or a model's folder (%(default)s)")
    p.add_argument("--adapter", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True, help="folder of the merged model")

    _count_options(commands)
    _memory_options(commands)
    _command(
        commands,
        "gradcheck",
        run.gradcheck,
        "check every pair's backward against finite differences",
    )
    _command(commands, "doctor", run.doctor, "what this machine has, and whether the kernels agree")
    return top


class _Parser(argparse.ArgumentParser):
    """Wrong arguments: one line and exit code 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def _command(commands, name, function, summary):
    p = commands.add_parser(name, help=summary, description=summary)
    p.set_defaults(command=function)
    return p


def _count_options(commands):
    p = _command(commands, "count", run.count, "trainable numbers, from shapes alone")
    p.add_argument("--shape", default="base", help="gpt3-175b, llama-7b, … or a config.json")
    _adapter_options(p)


def _memory_options(commands):
    p = _command(commands, "memory", run.memory, "bytes of a training step, predicted or measured")
    p.add_argument("--model", default="base", help="'base', a folder, or llama-7b, … (%(default)s)")
    _adapter_options(p)
    p.add_argument("--batch", type=int, default=1, help="rows (%(default)s)")
    p.add_argument("--seq", type=int, default=512, help="tokens a row (%(default)s)")
    p.add_argument("--mixed", action="store_true", help="16 bits, with 32-bit master and moments")
    p.add_argument("--measure", action="store_true", help="run the step as well, and measure it")
    p.add_argument("--fit", type=float, metavar="GB", help="the largest batch and length that fit")
    p.add_argument("--figure", type=Path, metavar="PNG", help="bytes against length")


def _adapter_options(p):
    p.add_argument("--method", help=f"{', '.join(METHODS)} (all)")
    p.add_argument("--rank", type=int, help="rank of the adapter")
    p.add_argument("--targets", type=_names, help="q_proj,v_proj,… or all-linear")
    p.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    p.add_argument("--json", action="store_true", help="as JSON")


def _comparison_options(p):
    p.add_argument(
        "--base", default="base", help="'base' or a model's folder with a tokenizer (%(default)s)"
    )
    p.add_argument("--task", default="past", help="a task of the word lab (%(default)s)")
    p.add_argument("--methods", type=_names, help=f"some of {','.join(METHODS)} (all)")
    p.add_argument("--train-size", type=int, default=300, help="words to train on (%(default)s)")
    p.add_argument(
        "--rank",
        action="append",
        default=[],
        metavar="R or METHOD=R",
        help="rank, or one method's own (4; vera=256)",
    )
    p.add_argument("--targets", type=_names, help="q_proj,v_proj,… or all-linear (q_proj,v_proj)")
    p.add_argument("--steps", type=int, default=150, help="optimizer steps (%(default)s)")
    p.add_argument("--seeds", type=int, default=3, help="runs of each method (%(default)s)")


def _names(text):
    names = tuple(n.strip() for n in text.split(",") if n.strip())
    return "all-linear" if names == ("all-linear",) else names


def _show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"minilora: warning: {message}", file=sys.stderr)


def _one_line(error):
    text = " ".join(str(error).split())
    return text or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
