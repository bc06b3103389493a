"""Checks that teach: what is wrong, the numbers and the place, the slip it looks like, a hint.

from minilora.check import check, check_pair
check("lora_backward", lora_backward)        # an exercise of the notebooks
check_pair(forward, backward, x, W)          # your own pair

verdict: what a check answers · slips: the known slips, as data · judge: a function on its cases
lessons: the exercises · pairs: the general check
"""

from .answer import check, hint
from .lessons import EXERCISES
from .pairs import check_pair
from .slips import SLIPS
from .verdict import Verdict

__all__ = ["EXERCISES", "SLIPS", "Verdict", "check", "check_pair", "hint"]
