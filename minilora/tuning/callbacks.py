"""Callbacks of a training run: a progress bar, logs, the best adapter, early stopping, your own.

A `Callback` has five moments: the start; after a step, an evaluation, a checkpoint; and the end.
Each gets the `Run`, and may end it with `run.stop(reason)`.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..support.files import make_folder, naming, parse_json, read_text, write_atomically
from ..support.kinds import OneOf, Within, check_kind
from ..support.terminal import bar, hides_bar, many
from ..support.values import number, whole
from .adapters import Tuned
from .history import History, python_values
from .storage import save_adapter, saved_evaluation


@dataclass
class Run:
    """A training run as it is now."""

    tuned: Tuned
    history: History
    steps: int  # of the whole run
    step: int  # how many are done
    save: Callable[[str | Path], None]  # writes a checkpoint of this moment
    stopped: str = ""  # why it ends before `steps`
    interrupted: bool = False  # by Ctrl-C

    def stop(self, reason: str) -> None:
        """End the run after this step."""
        self.stopped = self.stopped or reason

    def due(self, every: int | None) -> bool:
        """Is this step a multiple of `every`, or the last one?"""
        last = self.step == self.steps or bool(self.stopped)
        return last or bool(every and self.step % every == 0)


class Callback:
    """A callback that does nothing. Write a subclass with the methods that you need."""

    def start(self, run: Run) -> None:
        """Before the first step, after all settings were checked; also in a resumed run."""

    def step(self, run: Run) -> None:
        """After each step; history.losses[-1] and .rates[-1] are its loss and learning rate."""

    def evaluation(self, run: Run) -> None:
        """After each call of `evaluate`; history.evaluations[-1] is (step, what it returned)."""

    def checkpoint(self, run: Run) -> None:
        """After the checkpoint was written."""

    def end(self, run: Run) -> None:
        """After the last step, or after the step at which the run was stopped."""


class Bar(Callback):
    """A progress bar on stderr. shown: None only on a terminal and in a notebook."""

    def __init__(self, run: Run, shown: bool | None = None):
        hidden, title = hides_bar(shown), run.tuned.record.title
        self.bar = bar(total=run.steps, initial=run.step, desc=title, disable=hidden, leave=False)

    def step(self, run: Run) -> None:
        """Move the bar by one step, and show the loss."""
        self.bar.set_postfix(loss=f"{run.history.losses[-1]:.3f}", refresh=False)
        self.bar.update()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


RECORD = OneOf(  # a line of a log
    {"step": Within(int, 0), "loss": float, "rate": float, "seconds": float},
    {"step": Within(int, 0), "evaluation": object},
)


class Log(Callback):
    """A file of JSON lines: {step, loss, rate, seconds} of each step, {step, evaluation}.

    A resumed run keeps the lines of the steps before it; any other run starts the file anew.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        make_folder(self.path.parent)

    def start(self, run: Run) -> None:
        """Keep the lines of the steps that are done. Warns once if there are lines of another form.

        Raises ValueError, with the number of the line, if the file is not UTF-8.
        """
        text = read_text(self.path) if run.step and self.path.is_file() else ""
        kept, odd = "", []
        for n, line in enumerate(text.split("\n"), 1):
            try:
                record = parse_json(self.path, line)
                check_kind(self.path, "it", record, RECORD)
                kept += f"{line}\n" if record["step"] <= run.step else ""
            except ValueError:
                odd += [n] if line.strip() else []
        if odd:
            said = (
                f"left out {many(len(odd), 'line')} that record no step, the first is line {odd[0]}"
            )
            warnings.warn(f"{self.path}: {said}", stacklevel=4)
        write_atomically(self.path, kept.encode())

    def step(self, run: Run) -> None:
        """Add a line with the step's loss, rate and seconds."""
        history = run.history
        loss, rate, seconds = history.losses[-1], history.rates[-1], history.seconds[-1]
        self._add({"step": run.step, "loss": loss, "rate": rate, "seconds": seconds})

    def evaluation(self, run: Run) -> None:
        """Add a line with the evaluation."""
        step, value = run.history.evaluations[-1]
        self._add({"step": step, "evaluation": value})

    def _add(self, line):
        with naming(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=python_values) + "\n")


def best_of(
    evaluations: Iterable[tuple[int, Any]],
    of: Callable[[Any], float] = float,
    sign: int = 1,
    least: float = 0.0,
) -> tuple[int | None, float, int]:
    """The best evaluation: its step (None without any), its value, and how many came after it.

    of: takes the number out of what `evaluate` returned. sign: 1 where a lower value is better, -1
    where a higher one is. least: one is better only if it improves by more than this.
    """
    step, best, waited = None, math.inf, 0
    for at, value in evaluations:
        loss, waited = sign * of(value), waited + 1
        if loss < best - least:
            step, best, waited = at, loss, 0
    return step, float(sign * best), waited


class KeepBest(Callback):
    """Writes the adapter into `folder` after each evaluation that is better than all before it.

    A lower value is better, unless higher=True. of: takes the number out of what `evaluate`
    returned. A resumed run goes on with the evaluations that it had. Warns once, and the run goes
    on, if the adapter cannot be written.
    """

    def __init__(
        self, folder: str | Path, *, higher: bool = False, of: Callable[[Any], float] = float
    ):
        self.folder, self.sign, self.of = make_folder(folder), (-1 if higher else 1), of
        self.kept: int | None = None  # after the run: the best step, if the folder has its adapter
        self.failed = False  # has a write failed?

    def evaluation(self, run: Run) -> None:
        """Write the adapter if this evaluation is the best one."""
        step, value, _ = best_of(run.history.evaluations, self.of, self.sign)
        if step != run.step:
            return
        try:
            save_adapter(run.tuned, self.folder, evaluation=(step, value))
        except (ValueError, OSError) as error:  # such as a full disk
            if not self.failed:
                said = f"the adapter of step {step} is not kept, and the run goes on: {error}"
                warnings.warn(said, stacklevel=2)
            self.failed = True

    start = evaluation  # the adapter of the start, where its evaluation is in the history

    def end(self, run: Run) -> None:
        """Say which step's adapter the folder has."""
        step, value, _ = best_of(run.history.evaluations, self.of, self.sign)
        self.kept = step if saved_evaluation(self.folder) == [step, value] else None


class EarlyStopping(Callback):
    """Ends the run after `patience` evaluations in a row that are not better than the best one.

    A lower value is better, unless higher=True. least: an evaluation is better only if it improves
    by more than this. of: takes the number out of what `evaluate` returned. The arrays stay those
    of the last step; `KeepBest` writes those of the best evaluation.
    Raises ValueError if patience is below 1 or least below 0.
    """

    def __init__(
        self,
        patience: int = 3,
        *,
        higher: bool = False,
        least: float = 0.0,
        of: Callable[[Any], float] = float,
    ):
        self.patience = whole("early stopping: patience", patience, 1)
        self.least = number("early stopping: least", least, least=0)
        self.sign, self.of = (-1 if higher else 1), of

    def evaluation(self, run: Run) -> None:
        """Stop if the best evaluation is too long ago; those before a resumption count too."""
        _, best, waited = best_of(run.history.evaluations, self.of, self.sign, self.least)
        if waited >= self.patience and run.step < run.steps:
            run.stop(f"no evaluation was better than {best:g} in the last {waited}")

    def end(self, run: Run) -> None:
        """Warn if there was no evaluation."""
        if not (run.history.evaluations or run.interrupted):
            warnings.warn(
                "early stopping: got no evaluation; wanted evaluate= and evaluate_every= of train",
                stacklevel=4,  # the line that calls train
            )
