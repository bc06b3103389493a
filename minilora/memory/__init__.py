"""Where the memory goes: the bytes of a training step, predicted from shapes and measured.

step: the ledger, by category · saved: the arrays on the tape, by name · count: trainable parameters
tables: the ledger as text
"""

from ..support.meta import arrays_in
from .saved import Saved, by_kind, saved_arrays
from .step import CATEGORIES, Ledger, largest, ledger, measure, predict, shadow

__all__ = [
    "CATEGORIES",
    "Ledger",
    "Saved",
    "arrays_in",
    "by_kind",
    "largest",
    "ledger",
    "measure",
    "predict",
    "saved_arrays",
    "shadow",
]
