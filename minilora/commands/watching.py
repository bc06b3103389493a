"""What a training run prints while it runs: the time left, each evaluation, sample answers."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from ..fast import clock
from ..lab.runs import mean_loss
from ..support.files import write_atomically
from ..support.terminal import many, width
from ..text.batches import Batch
from ..text.encode import question
from ..tuning.callbacks import Callback, Run, best_of

TIMED = 3  # steps before the time left is printed: the first step is slower
SAMPLE = 48  # most new tokens of an answer


class Watch(Callback):
    """judged: the batches of the validation loss. every: steps between two evaluations. asked:
    pairs, chats or texts, whose prompts are answered at each evaluation. again: run.toml and its
    text, which is written when the run begins.
    """

    def __init__(
        self, judged: Sequence[Batch], every: int | None, asked: list[Any], again: tuple[Path, str]
    ):
        self.judged, self.every, self.asked, self.again = judged, every, asked, again
        self.spent, self.times = 0.0, list[float]()  # seconds of an evaluation; of each step
        self.ended: Run | None = None  # the run after its end, or where Ctrl-C stopped it

    def judge(self, tuned: Any) -> float:
        """The validation loss of a Tuned; the seconds that it took are kept."""
        start = clock.now()
        loss = mean_loss(tuned, self.judged)
        self.spent = clock.now() - start
        return loss

    def start(self, run: Run) -> None:
        """Evaluate before the first step, too: the start may already be the best."""
        if self.judged and run.step == 0 and not run.history.evaluations:
            run.history.evaluations.append((0, self.judge(run.tuned)))
            self.show(run.tuned, *run.history.evaluations[0], "before training")
        write_atomically(self.again[0], self.again[1].encode())

    def show(self, tuned: Any, step: int, loss: float, more: str) -> None:
        """Print a line about an evaluation, and one for each answer."""
        _say(f"step {step}: validation loss {loss:.4f} ({more})")
        for pair in self.asked:
            prompt = question(pair, tuned.tokenizer)[0]
            users = [m["content"] for m in getattr(pair, "messages", ()) if m["role"] == "user"]
            shown = f"{users[-1] if users else prompt} -> {tuned.generate_text(prompt, SAMPLE)}"
            _say(f"    {textwrap.shorten(shown, width() - 4, placeholder='…')}")

    def step(self, run: Run) -> None:
        """Print, once, how long the rest will take."""
        self.times.append(run.history.seconds[-1])
        if len(self.times) == TIMED and (left := run.steps - run.step):
            one, times = median(self.times), -(-left // self.every) if self.every else 0
            seconds = left * one + times * self.spent
            took = f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
            more = f" and {many(times, 'evaluation')}" if times else ""
            _say(f"about {took} to go: {many(left, 'step')} of {one:.2f} s{more}")

    def evaluation(self, run: Run) -> None:
        """Print the evaluation, the best one so far, and what the model answers."""
        step, loss = run.history.evaluations[-1]
        best, value, _ = best_of(run.history.evaluations)
        so_far = "the best so far" if best == step else f"best {value:.4f} at step {best}"
        self.show(run.tuned, step, loss, so_far)

    def end(self, run: Run) -> None:
        """Keep the run."""
        self.ended = run


def _say(line):
    """Print immediately, also beside a progress bar or into a pipe."""
    with tqdm.external_write_mode():
        print(line, flush=True)
