"""gradcheck, doctor: is the mathematics right, and do the fast twins agree with it? new-method: a
technique of one's own, to be checked so.
"""

import keyword
from importlib.util import find_spec
from pathlib import Path

from ..methods import METHODS
from ..support.files import data_folder, read_text
from ..support.terminal import ANY, fill, width
from ..tuning.choices import find_method
from .arguments import OWN, command, technique


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "gradcheck", print_gradients)
    p.add_argument("--method", type=technique, help=f"one technique, {OWN}, and all of its record")
    command(commands, "doctor", print_machine)
    p = command(commands, "new-method", write_method)
    p.add_argument("name", help="of the technique, such as my_method; the file is NAME.py")


def print_gradients(a) -> None:
    """Print a line for each pair, or for each part of one technique's record.

    Raises GradientError or ValueError if one is wrong.
    """
    from ..check import check_method, doctor

    lines = doctor.gradients()
    if a.method is not None:
        record = find_method(a.method)
        lines = (f"✓ {record.name}: {line}" for line in check_method(record))
    for line in lines:
        print(fill(line, width(ANY), 2), flush=True)


def print_machine(a) -> None:
    """Print versions, threads and kernels, then compare each fast twin with its page.

    Raises ValueError if two disagree.
    """
    from ..check import doctor

    for line in doctor.machine():
        print(fill(line, width(ANY), 2))


def write_method(a) -> None:
    """Write NAME.py: a technique that is right, with its test, to be changed.

    Raises ValueError for what is no name or is taken, FileExistsError where the file is there.
    """
    name, path = a.name, Path(f"{a.name}.py")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"new-method: got {name!r}, wanted a name such as my_method")
    if name.lower() in METHODS:
        raise ValueError(f"new-method: {name} is a technique of minilora, wanted another name")
    if path.exists():
        raise FileExistsError(f"{path}: it is there, and stays as it is; wanted another name")
    if find_spec(name):
        raise ValueError(f"new-method: {path} would hide the module {name}, wanted another name")
    text = read_text(data_folder() / "examples" / "method.py")
    path.write_text(text.replace("mine", name), encoding="utf-8")
    print(f"{path}: a technique that is right, to be changed. To check it, and to train with it:")
    print(f"minilora gradcheck --method {path}:METHOD")
    print(f"minilora train --task past --method {path}:METHOD --lr 0.02")
