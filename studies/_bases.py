"""Further pretrained bases: the recipe of the shipped one with other seeds. They are made when a
run first asks for them, in runs/bases, and are not committed.

    minilora pretrain --seed 0 --out runs/bases/0       # the same by hand
"""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

from minilora.lab.pretrain import Recipe, pretrain
from minilora.lab.runs import the_model
from minilora.llama.model import Llama

PLACE = Path(os.environ.get("MINILORA_BASES", Path(__file__).resolve().parents[1] / "runs/bases"))
SEEDS = (0, 1)  # the first two; the shipped base's seed was chosen, see `Recipe`
SHIPPED = None


def name(seed: int | None) -> str:
    """ "shipped", or "seed 0"."""
    return "shipped" if seed is SHIPPED else f"seed {seed}"


def model(seed: int | None) -> Llama:
    """The base of this seed, made now where it is not there yet; None: the shipped one."""
    return the_model("base" if seed is SHIPPED else str(made(seed)))


def made(seed: int, recipe: Recipe | None = None) -> Path:
    """The folder of this base. Two processes may make it at once: the first to end puts it there,
    and both have made the same bits.
    """
    folder = PLACE / str(seed)
    if not (folder / "model.safetensors").is_file():
        PLACE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=PLACE) as place:
            new = Path(place) / "new"
            pretrain(recipe or dataclasses.replace(Recipe(), seed=seed), new)
            if not folder.is_dir():
                shutil.move(new, folder)
    return folder
