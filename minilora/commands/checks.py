"""gradcheck, doctor: are the gradients right, and do the twins agree with the pages? new-method."""

import keyword
from importlib.util import find_spec
from pathlib import Path

from ..methods import METHODS
from ..support.files import data_folder, read_text
from ..support.terminal import ANY, fill, width
from .arguments import OWN, command


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "gradcheck", print_gradients)
    p.add_argument("--method", help=f"the pair of one technique, {OWN}")
    command(commands, "doctor", print_machine)
    p = command(commands, "new-method", write_method)
    p.add_argument("name", help="of the technique, such as my_method; the file is NAME.py")


def print_gradients(a) -> None:
    """Print a line for each pair, or for one technique's. Raises GradientError if one is wrong."""
    from ..check import doctor

    for line in doctor.gradients(a.method):
        print(fill(line, width(ANY), 2))


def print_machine(a) -> None:
    """Print versions, threads and kernels, then compare each fast twin with its page.

    Raises ValueError if two disagree.
    """
    from ..check import doctor

    for line in doctor.machine():
        print(fill(line, width(ANY), 2))


def write_method(a) -> None:
    """Write NAME.py, a technique with its test. Raises ValueError for a name that is taken or not a
    name, or if the file exists.
    """
    name, path = a.name, Path(f"{a.name}.py")
    is_name = name.isidentifier() and not keyword.iskeyword(name)
    if not is_name:
        raise ValueError(f"new-method: {name!r} is not a Python name, wanted one such as my_method")
    if path.exists():
        raise ValueError(f"new-method: {path} already exists, and is not changed")
    if name.lower() in METHODS or find_spec(name):
        raise ValueError(f"new-method: the name {name!r} is taken, wanted another")
    text = read_text(data_folder() / "examples" / "method.py").replace("mine", name)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
    print(f"{path}: a correct technique, for you to change; its first lines say how to check it")
