"""Times of several techniques, taken in turns, so that whatever else the machine does meets all."""

from collections.abc import Callable, Iterable


def in_turns(
    seconds: Callable[[str], list[float]], methods: Iterable[str], turns: int
) -> dict[str, list[float]]:
    """seconds(method) of every method, again and again  ->  method -> all of them but those of the
    first turn, which may compile kernels.
    """
    found: dict[str, list[float]] = {method: [] for method in methods}
    for turn in range(turns):
        for method, mine in found.items():
            taken = seconds(method)
            mine += taken if turn else []
    return found
