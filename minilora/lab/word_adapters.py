"""The word lab's five adapters on its base, one for each task that the base never saw."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..formats.models import load_model
from ..llama.model import Llama
from ..support.files import data_folder, write_json
from ..text import tasks
from ..text.batches import enough_batches
from ..text.score import exact_match
from ..tuning.adapters import attach
from ..tuning.checkpoints import fingerprint
from ..tuning.library import Library
from ..tuning.storage import save_adapter
from .runs import fit, trainable_numbers

RECORD = "record.json"
NAMES = tuple(name for name, task in tasks.TASKS.items() if not task.pretrain)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one adapter is made."""

    method: str = "lora"
    rank: int = 4
    targets: tuple[str, ...] | str = ("q_proj", "v_proj")
    steps: int = 300  # optimizer steps
    batch_size: int = 64  # words, of all that the task has to train on
    lr: float = 1e-2  # peak learning rate
    warmup: int = 30  # steps
    schedule: str = "linear"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0


# From sounds to spelling is further from what the base knows: it needs more numbers and steps.
RECIPES: Mapping[str, Recipe] = {name: Recipe() for name in NAMES} | {
    "spelling": Recipe(rank=8, targets="all-linear", lr=5e-3, steps=600)
}


def make(
    folder: str | Path,
    recipes: Mapping[str, Recipe] = RECIPES,
    report: Callable[[str, dict[str, Any]], None] = lambda name, row: None,
) -> dict[str, Any]:
    """Train an adapter for each task, write it into folder/TASK; write and return record.json.

    The scores are exact matches over all held-out words. Raises OSError.
    """
    base = load_model("base")
    rows = {}
    for name, recipe in recipes.items():
        rows[name] = _make_one(base, name, recipe, Path(folder) / name)
        report(name, rows[name])
    record = {"command": "minilora adapters", "base_crc32": fingerprint(base), "adapters": rows}
    write_json(Path(folder) / RECORD, record)
    return record


def _make_one(base: Llama, name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    data, r = tasks.load_task(name), recipe
    tuned = attach(base, r.method, rank=r.rank, targets=r.targets, seed=r.seed)
    batches = enough_batches(r.steps, data.train, base.tokenizer, r.batch_size, r.seed)
    start = time.perf_counter()
    history = fit(tuned, batches, recipe, recipe.lr, progress=None)
    seconds = time.perf_counter() - start
    return {
        "recipe": dataclasses.asdict(recipe),
        "trainable": trainable_numbers(tuned),
        "bytes": save_adapter(tuned, folder),
        "seconds": round(seconds, 1),
        "loss": sum(history.losses[-20:]) / len(history.losses[-20:]),
        "held_out_words": len(data.test),
        "held_out_exact_match": round(exact_match(tuned, data.test), 4),
    }


def open_library(folder: str | Path | None = None) -> Library:
    """The base with every adapter of a folder of adapters; the committed ones where None.

    Raises FileNotFoundError where the folder holds none, and what load_adapter raises.
    """
    folder = data_folder() / "adapters" if folder is None else Path(folder)
    library = Library(load_model("base"))
    for path in sorted(folder.glob("*/adapter_config.json")):
        library.load(path.parent)
    if not any(name in library for name in tasks.TASKS):
        raise FileNotFoundError(
            f"{folder}: no adapter in it that is named as a task; minilora adapters makes five"
        )
    return library


def ask(library: Library, word: str) -> dict[str, str]:
    """The answers of the base and of each adapter of a task to one word  ->  task: answer.

    The spelling adapter reads sounds: those that the base gives for the word.
    Raises ValueError for a character that the base does not know.
    """
    answers = {}
    for name in [name for name, task in tasks.TASKS.items() if task.pretrain]:
        with library.using(None):
            answers[name] = answer(library, name, word)
    for name in [name for name in tasks.TASKS if name in set(library)]:
        prompt = answers["phonemes"] if name == "spelling" else word
        with library.using(name):
            answers[name] = answer(library, name, prompt)
    return answers


def answer(model: Any, task: str, word: str, longest: int = 24) -> str:
    """The model's greedy answer to one word of a task; model: also a Tuned or a Library."""
    tokenizer = model.tokenizer
    prompt = tokenizer.encode(tasks.TASKS[task].prompt(word))
    out = model.generate([prompt], longest, stop=tokenizer.eos_id)[0, len(prompt) :]
    return tokenizer.decode(out).split("\n")[0]
