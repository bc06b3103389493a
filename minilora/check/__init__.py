"""Is my own pair right, and does this machine compute what it should? In words.

from minilora.check import check_pair
check_pair(forward, backward, x, W)          # what is wrong, the numbers and the place, the slip

pairs: a reader's own pair · slips: the known slips · words: what is said of a wrong array
verdict: the answer of a check · doctor: this machine · examples: arguments of every op
"""

from .pairs import check_pair
from .slips import SLIPS
from .verdict import Verdict

__all__ = ["SLIPS", "Verdict", "check_pair"]
