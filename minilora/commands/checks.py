"""gradcheck and doctor: is the mathematics right, and do the fast twins agree with it?"""

from .arguments import command


def add(commands) -> None:
    """Put these commands on the parser."""
    command(
        commands,
        "gradcheck",
        print_gradients,
        "check every pair's backward against finite differences",
    )
    command(commands, "doctor", print_machine, "what this machine has, and whether the twins agree")


def print_gradients(a) -> None:
    """Print a line a pair; an error where one is wrong."""
    from ..check import doctor

    for line in doctor.gradients():
        print(line)


def print_machine(a) -> None:
    """Print versions, threads and kernels, then whether each fast twin agrees with its page."""
    from ..check import doctor

    for line in doctor.machine():
        print(line)
