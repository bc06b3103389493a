"""One side of a comparison: a training step in this package."""

from collections.abc import Iterator

import numpy as np

from ..tuning.train import train
from .cases import Case, Size, batch, make


class Ours:
    """A technique on a model, and its steps."""

    def __init__(self, size: Size, case: Case, lr: float):
        self.tuned, self.batch, self.lr = make(size, case), batch(size), lr

    def steps(self, n: int) -> list[float]:
        """n steps of training -> the loss before each."""
        return self._train(n).losses

    def seconds(self, n: int) -> list[float]:
        """n steps -> the wall time of each, in seconds."""
        return self._train(n).seconds

    def _train(self, n):
        return train(self.tuned, [self.batch], steps=n, lr=self.lr, progress=False)

    def moved(self) -> Iterator[tuple[str, np.ndarray]]:
        """What trains, by its name on disk."""
        yield from self.tuned.trainable.items()
