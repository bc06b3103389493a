"""The loss of a language model on a plain text: the introduction to the proceedings of a workshop
at the Library of Congress in 1992 (data/README.md has its source and licence).

Models that were trained on the web may have read it. So a loss says little by itself; differences
between forms of one model, or before and after a training, are what it is for.
"""

from typing import Any

import numpy as np

from minilora.lab.statistics import rounded
from minilora.ops.loss import IGNORED
from minilora.support.files import data_folder, read_text

WINDOW = 256  # tokens; each window is read without what stands before it


def losses(model: Any) -> list[float]:
    """Mean cross-entropy of each window, in nats per token: of a base, or with an adapter on."""
    ids = np.array(model.tokenizer.encode(read_text(data_folder() / "text" / "workshop.txt")))
    windows = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, 1, WINDOW)
    last = np.full((1, 1), IGNORED)
    return [
        rounded(float(model.loss(window, np.hstack([window[:, 1:], last])).data))
        for window in windows
    ]
