"""The exercises, in the order of the notebooks: one file per lesson."""

from dataclasses import replace

from . import (
    attached,
    backward,
    comparison,
    delta_lora,
    dora,
    forgetting,
    four_bits,
    gradients,
    kernels,
    language_model,
    layer,
    llama,
    lora,
    lora_fa,
    lora_plus,
    low_rank,
    rank_targets,
    tape,
    tour,
    vera,
    walk,
)
from .exercise import Exercise

LESSONS = {  # number of the notebook -> its exercises
    "00": tour.EXERCISES,
    "01": tape.EXERCISES + walk.EXERCISES,
    "01b": gradients.EXERCISES,
    "02": llama.EXERCISES,
    "02b": backward.EXERCISES + layer.EXERCISES,
    "03": low_rank.EXERCISES,
    "04": lora.EXERCISES + attached.LORA,
    "05": lora_fa.EXERCISES + attached.LORA_FA,
    "06": vera.EXERCISES + attached.VERA,
    "07": delta_lora.EXERCISES,
    "08": lora_plus.EXERCISES + attached.LORA_PLUS,
    "09": kernels.EXERCISES,
    "10": comparison.EXERCISES,
    "11": language_model.EXERCISES,
    "12": rank_targets.EXERCISES,
    "13": forgetting.EXERCISES,
    "14": dora.EXERCISES,
    "15": four_bits.EXERCISES,
}
EXERCISES: dict[str, Exercise] = {
    exercise.name: replace(exercise, lesson=number)
    for number, exercises in LESSONS.items()
    for exercise in exercises
}
