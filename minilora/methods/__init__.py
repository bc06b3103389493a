"""The techniques, in the order in which they are shown.

A new one is a file here and its name in Technique, or a file outside the package: see `own`.
"""

import importlib
from typing import Literal, get_args

from . import own
from .base import Method

# Written out, so that editors and type checkers know the names.
Technique = Literal["full", "lora", "lora_fa", "vera", "delta_lora", "lora_plus", "dora"]
ORDER = get_args(Technique)
DEFAULT = ("full", "lora", "lora_fa", "vera", "delta_lora", "lora_plus")  # if none is named

METHODS: dict[str, Method] = {
    name: importlib.import_module(f".{name}", __name__).METHOD for name in ORDER
}
own.add_installed(METHODS)
