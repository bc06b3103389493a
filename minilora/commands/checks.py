"""gradcheck and doctor: is the mathematics right, are the kernels?"""

from .arguments import command


def add(commands) -> None:
    """Put these commands on the parser."""
    command(
        commands,
        "gradcheck",
        gradcheck,
        "check every pair's backward against finite differences",
    )
    command(commands, "doctor", doctor, "what this machine has, and whether the kernels agree")


def gradcheck(a) -> None:
    """Print a line a pair; an error where one is wrong."""
    from ..check import doctor as checkup

    for line in checkup.gradients():
        print(line)


def doctor(a) -> None:
    """Print versions, threads, kernels and a check of each kernel against its twin."""
    from ..check import doctor as checkup

    for line in checkup.machine():
        print(line)
