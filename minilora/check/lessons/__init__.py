"""The exercises, in the order of the notebooks: a file a lesson."""

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

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for lesson in (
        tour,
        tape,
        llama,
        low_rank,
        lora,
        lora_fa,
        vera,
        delta_lora,
        lora_plus,
        kernels,
        comparison,
        language_model,
    )
    for exercise in lesson.EXERCISES
}
