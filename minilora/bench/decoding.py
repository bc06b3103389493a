"""How fast a model decodes, compared with the limit that this machine's memory sets.

Decoding a token reads every weight once and computes little with it. So the shortest possible time
is the bytes of the weights divided by the read bandwidth.
"""

import time

import numpy as np

from ..llama.model import EMBED, Llama


def token_bytes(model: Llama) -> int:
    """Bytes of the weights that decoding a token reads; a tied embedding counts, as the head."""
    nbytes = sum(a.nbytes for a in model.params.values())
    tied = model.config.tie_word_embeddings
    return nbytes if tied else nbytes - model.params[EMBED].nbytes


class Clock:
    """The time of each token; call it with every new token.

    The time before the first token is spent on the prompt, so it is not counted.
    """

    def __init__(self):
        self.times: list[float] = []

    def __call__(self, token) -> None:
        self.times.append(time.perf_counter())

    def line(self, model: Llama, bandwidth: float) -> str:
        """Tokens a second, and the share of the bandwidth (bytes a second) that they use.

        Raises ValueError for fewer than three tokens.
        """
        if len(self.times) < 3:
            raise ValueError(f"speed: {len(self.times)} tokens, wanted at least 3 to time them")
        seconds = float(np.median(np.diff(self.times)))
        nbytes = token_bytes(model)
        share = nbytes / seconds / bandwidth
        return (
            f"{1 / seconds:.1f} tokens a second (median of {len(self.times) - 1}); a token reads "
            f"{nbytes / 1e6:.0f} MB: {nbytes / seconds / 1e9:.1f} of {bandwidth / 1e9:.1f} GB/s "
            f"from memory, {share:.0%}"
        )
