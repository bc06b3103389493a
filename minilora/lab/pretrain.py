"""The word lab's base: a small Llama that is trained on three of the tasks about English words."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.huggingface import save_model
from ..llama.model import Llama, ModelConfig, init_params
from ..support.files import write_json
from ..text import tasks
from ..text.batches import enough_batches
from ..text.score import exact_match
from ..text.tokenizer import WORD_LAB
from ..tuning.adapters import attach
from .runs import fit


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the base is made."""

    hidden_size: int = 128  # C
    intermediate_size: int = 336  # F
    layers: int = 4  # L
    heads: int = 4  # H
    kv_heads: int = 2  # G
    steps: int = 1600  # optimizer steps
    batch_size: int = 64  # words
    lr: float = 3e-3  # peak learning rate
    warmup: int = 50  # steps
    schedule: str = "cosine"
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    # Draws the weights and the order of the words. It is the first seed from 0 whose base answers
    # no *training* word of the tasks that it never saw. The plural is an exception: the base does
    # not know its tag, adds any ending, and -s is sometimes right.
    seed: int = 2


def new_model(recipe: Recipe) -> Llama:
    """The untrained model, drawn from the recipe's seed."""
    config = ModelConfig(
        vocab_size=WORD_LAB.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return Llama(config, init_params(config, recipe.seed), WORD_LAB)


def pretrain(recipe: Recipe, folder: str | Path) -> dict[str, Any]:
    """Train the base on the training words of three tasks, and write it with its record.json.

    Returns the record. Its scores are exact matches on all held-out words of all eight tasks.
    """
    r, data = recipe, {name: tasks.load_task(name) for name in tasks.TASKS}
    pairs = [pair for name, t in tasks.TASKS.items() if t.pretrain for pair in data[name].train]
    model = new_model(recipe)
    batches = enough_batches(r.steps, pairs, model.tokenizer, r.batch_size, r.seed)
    tuned = attach(model, "full", seed=recipe.seed)
    start = time.perf_counter()
    history = fit(tuned, batches, recipe, recipe.lr, progress=None)
    seconds = time.perf_counter() - start
    base = Llama(model.config, tuned.weights, WORD_LAB)
    held_out = {name: of_task.test for name, of_task in data.items()}
    record = {
        "command": "minilora pretrain",
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(a.size for a in base.params.values()),
        "training_words": len(pairs),
        "seconds": round(seconds, 1),
        "loss": float(np.mean(history.losses[-50:])),
        "held_out_exact_match": {
            name: round(exact_match(base, test), 4) for name, test in held_out.items()
        },
        "held_out_words": {name: len(test) for name, test in held_out.items()},
    }
    save_model(base, folder)
    write_json(Path(folder) / "record.json", record)
    return record
