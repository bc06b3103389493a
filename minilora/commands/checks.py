"""gradcheck and doctor: is the mathematics right, and do the fast twins agree with it?"""

from ..support.terminal import ANY, fill, width
from .arguments import command


def add(commands) -> None:
    """Put these commands on the parser."""
    command(commands, "gradcheck", print_gradients)
    command(commands, "doctor", print_machine)


def print_gradients(a) -> None:
    """Print a line for each pair. Raises GradientError if one is wrong."""
    from ..check import doctor

    for line in doctor.gradients():
        print(fill(line, width(ANY), 2))


def print_machine(a) -> None:
    """Print versions, threads and kernels, then compare each fast twin with its page.

    Raises ValueError if two disagree.
    """
    from ..check import doctor

    for line in doctor.machine():
        print(fill(line, width(ANY), 2))
