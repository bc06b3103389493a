"""Judge an answer or a pair, in words: what is wrong, the numbers and the place, the slip, a hint.

from minilora.check import check, check_pair
check("lora_backward", lora_backward)        # an exercise of the notebooks
check_pair(forward, backward, x, W)          # your own pair

answer: a reader's answer to an exercise · pairs: a reader's own pair · lessons: the exercises
calls: run a function · judge: compare what it returned · slips: the known slips
hints: one after the other · verdict: what is said · grading: the points of an answer
doctor: this machine · course: figures and controls of the notebooks
"""

from .answer import check
from .grading import grade, points
from .hints import hint
from .lessons import EXERCISES
from .pairs import check_pair
from .slips import SLIPS
from .verdict import Verdict

__all__ = ["EXERCISES", "SLIPS", "Verdict", "check", "check_pair", "grade", "hint", "points"]
