"""gradcheck and doctor: is the mathematics right, and do the fast twins agree with it?"""

from ..support.terminal import ANY, fill, width
from ..tuning.choices import find_method
from .arguments import OWN, command, technique


def add(commands) -> None:
    """Put these commands on the parser."""
    p = command(commands, "gradcheck", print_gradients)
    p.add_argument("--method", type=technique, help=f"one technique, {OWN}, and all of its record")
    command(commands, "doctor", print_machine)


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
