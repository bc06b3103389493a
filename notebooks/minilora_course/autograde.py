"""What nbgrader runs a student's notebook with: the points come from a Grader, not from a cell.

`nbgrader_config.py` of a course folder names it; nbgrader is imported here alone.
"""

from typing import Any

from nbformat.v4 import new_output
from nbgrader.preprocessors import Execute

from minilora.support.terminal import printable

from .grading import Grade, Grader

ASK = "from minilora_course.worker import answer as check\n"  # before a check while it is graded
CHECK = "check-"  # begins the grade_id of a check; the name of its exercise ends it


class Graded(Execute):
    """Runs a notebook as nbgrader does, while a Grader in nbgrader's own process grades it.

    When the notebook has ended, what its checks have shown is replaced by the Grader's words and
    points. So nothing that its cells, their displays or their functions do can write a point.
    """

    def preprocess(self, nb: Any, resources: Any, *more: Any, **others: Any) -> Any:
        """Run and grade a notebook, in place."""
        checks = [cell for cell in nb.cells if _grade_id(cell).startswith(CHECK)]
        sources = [cell.source for cell in checks]
        for cell in checks:
            cell.source = ASK + cell.source
        with Grader() as grader:
            nb, resources = super().preprocess(nb, resources, *more, **others)
        for cell, source in zip(checks, sources):
            grade = grader.grades.get(_grade_id(cell).removeprefix(CHECK))
            cell.source, cell.outputs = source, _outputs(grade, cell.outputs)
        return nb, resources


def _grade_id(cell) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def _outputs(grade: Grade | None, shown) -> list[Any]:
    """The words of a Grade and its points, which nbgrader reads off a cell's result."""
    if grade is None:
        raised = [f"{o.ename}: {o.evalue}" for o in shown if o.output_type == "error"]
        words, points = " ".join(["✗ this cell asked for no points", *raised[:1]]), 0.0
    else:
        words, points = str(grade.verdict), grade.points
    text = printable(words).encode(errors="replace").decode()
    return [
        new_output("stream", name="stdout", text=text + "\n"),
        new_output("execute_result", {"text/plain": str(points)}),
    ]
