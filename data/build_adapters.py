"""Train the word lab's five adapters on its base, a few minutes on two cores: adapters/.

python data/build_adapters.py --out data/adapters
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import minilora as ml
from minilora.lab.runs import fit, trainable_numbers
from minilora.lab.word_adapters import NAMES
from minilora.support.files import write_json
from minilora.text.batches import enough_batches
from minilora.tuning.checkpoints import fingerprint

RECORD = "record.json"


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
RECIPES = {name: Recipe() for name in NAMES} | {
    "spelling": Recipe(rank=8, targets="all-linear", lr=5e-3, steps=600)
}


def make(folder: Path, steps: int | None = None) -> None:
    """Train an adapter for each task, write it into folder/TASK, and record.json.

    steps: optimizer steps, in place of each recipe's own. Raises OSError.
    """
    base, rows = ml.load_model("base"), {}
    for name, recipe in RECIPES.items():
        if steps:
            recipe = dataclasses.replace(recipe, steps=steps, warmup=steps // 10)
        rows[name] = _make_one(base, name, recipe, folder / name)
        print(name, rows[name]["held_out_exact_match"], flush=True)
    command = "python data/build_adapters.py"
    record = {"command": command, "base_crc32": fingerprint(base), "adapters": rows}
    write_json(folder / RECORD, record)


def _make_one(base: ml.Llama, name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    data, r = ml.load_task(name), recipe
    tuned = ml.attach(base, r.method, rank=r.rank, targets=r.targets, seed=r.seed)
    batches = enough_batches(r.steps, data.train, base.tokenizer, r.batch_size, r.seed)
    start = time.perf_counter()
    history = fit(tuned, batches, recipe, recipe.lr, progress=None)
    seconds = time.perf_counter() - start
    return {
        "recipe": dataclasses.asdict(recipe),
        "trainable": trainable_numbers(tuned),
        "bytes": ml.save_adapter(tuned, folder),
        "seconds": round(seconds, 1),
        "loss": sum(history.losses[-20:]) / len(history.losses[-20:]),
        "held_out_words": len(data.test),
        "held_out_exact_match": round(ml.exact_match(tuned, data.test), 4),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--steps", type=int, help="in place of each recipe's own")
    given = parser.parse_args()
    make(given.out, given.steps)
