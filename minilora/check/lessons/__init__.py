"""The exercises, in the order of the notebooks: a file a lesson."""

from dataclasses import replace

from . import (
    comparison,
    delta_lora,
    kernels,
    language_model,
    llama,
    lora,
    lora_fa,
    lora_plus,
    low_rank,
    tape,
    tour,
    vera,
)
from .exercise import Exercise

LESSONS = (  # in the order of their numbers
    *(tour, tape, llama, low_rank),
    *(lora, lora_fa, vera, delta_lora, lora_plus),
    *(kernels, comparison, language_model),
)
EXERCISES: dict[str, Exercise] = {
    exercise.name: replace(exercise, lesson=number)
    for number, lesson in enumerate(LESSONS)
    for exercise in lesson.EXERCISES
}
