"""The history of a training run, as plain data."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..support import show


@dataclass(repr=False)
class History:
    """One entry for each step, and one for each evaluation."""

    losses: list[float] = field(default_factory=list)  # of each step: the mean over its targets
    rates: list[float] = field(default_factory=list)  # of each step: the learning rate
    # of each step: wall time, without evaluation and without compiling kernels
    seconds: list[float] = field(default_factory=list)
    # (step, what `evaluate` returned)
    evaluations: list[tuple[int, Any]] = field(default_factory=list)
    batches_crc32: int = 0  # of all batches so far, which a resumed run must repeat

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NumPy's numbers in the evaluations as Python's."""
        return json.loads(json.dumps(asdict(self), default=python_values))

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "History":
        """The inverse of `to_dict`."""
        known = {name: saved[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "evaluations": [(n, value) for n, value in saved["evaluations"]]})

    def _facts(self) -> dict[str, str]:
        facts = {"steps": f"{len(self.losses):,}"}
        if self.losses:
            facts["loss"] = f"{self.losses[0]:.4f} -> {self.losses[-1]:.4f}"
            facts["seconds"] = f"{sum(self.seconds):.1f}"
        if self.evaluations:
            facts["last evaluation"] = f"{self.evaluations[-1][1]!r:.60}"
        return facts

    def __repr__(self) -> str:
        return show.line("History", self._facts())

    def _repr_html_(self) -> str:
        return show.table("History", self._facts(), show.curve(self.losses))


def python_values(value: Any) -> Any:
    """For JSON: NumPy's scalars and arrays as Python's. Raises TypeError for another object."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"train: evaluate returned a {type(value).__name__}, which JSON cannot hold")
