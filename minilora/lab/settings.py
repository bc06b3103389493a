"""What a comparison depends on, and the settings that each task starts from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..formats.models import SMOLLM2
from ..llama.model import Llama
from ..methods import DEFAULT, METHODS
from ..text import nouns
from ..tuning.adapters import Tuned, attach
from ..tuning.choices import find_method

SCRATCH = "scratch"  # full fine-tuning of an untrained model: a row of its own beside the methods


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a comparison depends on, beside the learning rates."""

    base: str = "base"  # the pretrained model: "base" or a folder
    task: str = "past"
    methods: tuple[str, ...] = DEFAULT
    train_size: int = 300  # words: the first by md5 of the lemma; the next 600 validate
    steps: int = 150  # optimizer steps
    batch_size: int = 32  # words
    by_length: int = 8  # batches that share their words out by length: see text/batches.py
    rank: int = 4  # of a technique that has one
    ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)  # method -> its own rank
    targets: tuple[str, ...] | str = ("q_proj", "v_proj")
    seeds: int = 3  # initialisations and batch orders
    schedule: str = "linear"
    warmup: int = 15  # steps
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    scratch: bool = True  # is the same model trained from scratch, too?
    points: int = 15  # evaluations of the validation loss in a run

    def changed(self, **changes: Any) -> "Settings":
        """These settings with some of them changed.

        If the warm-up is not among them, it becomes at most a tenth of the steps.
        """
        if isinstance(changes.get("targets"), list):
            changes["targets"] = tuple(changes["targets"])
        new = dataclasses.replace(self, **changes)
        if "warmup" in changes:
            return new
        return dataclasses.replace(new, warmup=min(new.warmup, new.steps // 10))

    def rank_of(self, method: str) -> int | None:
        """The method's own rank, or the common one; None for what has none, as from scratch."""
        takes = METHODS[method].takes if method in METHODS else ()
        return self.ranks.get(method, self.rank) if "rank" in takes else None

    def attach(self, model: Llama, method: str, seed: int, **options) -> Tuned:
        """The method on the model, with the rank and the targets where it takes them.

        alpha is 2·rank if it is not among the options. Options that depend on the number of steps
        or on the seed get their value for this run. The seed draws all initial arrays.
        """
        record = find_method(method)
        chosen = record.of_run(self.steps, seed) if record.of_run else {}
        given: dict[str, Any] = {"rank": self.rank_of(method), "targets": self.targets}
        given = {k: v for k, v in given.items() if k in record.takes}
        return attach(model, method, seed=seed, **given, **{**chosen, **options})


# A task that is not the word lab's has settings of its own. On SmolLM2 full fine-tuning moves all
# weights, so it runs on request only.
STARTS = {
    nouns.NAME: Settings(
        base=SMOLLM2,
        task=nouns.NAME,
        methods=tuple(name for name in DEFAULT if not METHODS[name].whole_model),
        train_size=800,
        steps=60,
        batch_size=16,
        warmup=6,
        rank=8,
        seeds=1,
        scratch=False,
        points=3,
    )
}
