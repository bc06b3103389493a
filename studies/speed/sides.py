"""Who is timed: the sides of torch and JAX, and what the command line asks for."""

import importlib.util
from dataclasses import dataclass

from minilora.bench import turns
from minilora.bench.turns import OURS, Side

TORCH = "torch"  # of a comparison of kernels
SIDES = (OURS, "torch sdpa", "torch eager", "torch oneDNN")  # of steps
COMPILED, JAX = "torch compile", "jax"  # of steps too
# Of batches with padding: "padded" gets them as they are, with an attention mask and labels;
# "packed" gets the sequences of a batch in one row without padding, and computes logits only where
# a target counts.
PADDED, PACKED = "torch padded", "torch packed"
PADDED_COMPILED = "torch padded compile"  # for every length of a batch at once
# Sides that may be missing, and the cases that have them, since each is compiled for long.
MORE, WITH_MORE = (COMPILED, JAX, PADDED_COMPILED), ("full", "lora", "lora-all")


@dataclass(frozen=True)
class Settings(turns.Settings):
    """What is timed, for how long, beside whom."""

    sizes: tuple[str, ...] = ("tiny", "small", "smollm2")
    rounds: int = 5
    seconds: float = 2.0
    python: str = ""  # a Python that has torch; "": this one
    instructed: tuple[str, ...] = ("lora",)  # the cases of the part "instructions"

    @property
    def quick(self) -> bool:
        """Small models, few steps: with the size "toy" alone."""
        return self.sizes == ("toy",)

    def has_torch(self) -> bool:
        """Is there a Python with torch?"""
        here = importlib.util.find_spec("torch") and importlib.util.find_spec("peft")
        return bool(self.python or here)

    def beside(self, *names: str) -> list[Side]:
        """Our side, and others' of these names."""
        return [Side(OURS, self.threads), *(Side(n, self.threads, self.python) for n in names)]
