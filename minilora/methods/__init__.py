"""The techniques, in the order in which they are shown.

A further one is a file here and its name in ORDER.
"""

import importlib

from .base import Method

DEFAULT = ("full", "lora", "lora_fa", "vera", "delta_lora", "lora_plus")  # where none is named
ORDER = (*DEFAULT, "dora")

METHODS: dict[str, Method] = {
    name: importlib.import_module(f".{name}", __name__).METHOD for name in ORDER
}
