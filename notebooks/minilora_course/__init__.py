"""The course of minilora: the exercises of its notebooks, what judges them, and their figures.

from minilora_course import check, course
check("lora_backward", lora_backward)        # what is wrong, the place, the slip, a hint

answer: a reader's answer to an exercise · lessons: the exercises · calls: run a function
judge: compare what it returned · slips: the known slips · hints: one after the other
grading: the points of an answer, in another process than the student's · worker: the student's end
wire: what goes between the two · autograde: the grader in nbgrader
kept: what a student has written
course: figures and controls of the notebooks
"""

from .answer import check
from .grading import points
from .lessons import EXERCISES
from .slips import SLIPS

__all__ = ["EXERCISES", "SLIPS", "check", "points"]
