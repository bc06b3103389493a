"""What the records of the question on LoRA-FA say."""

import statistics
from typing import Any

from minilora.lab.cells import Record

from ._tables import by_kind, spread

SEEDS = 3  # that every rate is run with, and that choose among them


def summary(records: list[Record]) -> dict[str, Any]:
    """The numbers of every part that has records."""
    kinds = by_kind(records)
    parts = {
        "words": _of_words,
        "sgd": _of_sgd,
        "scalar": _of_scalar,
        "linear": _of_linear,
        "memory": _of_memory,
        "seconds": lambda records: records[0]["result"],
    }
    return {kind: part(kinds[kind]) for kind, part in parts.items() if kind in kinds}


def _of_words(records):
    """name -> rank -> what the rate that validation chose gave on the test words; LoRA-FA by its
    corrected gradient is a name of its own.
    """
    runs: dict[str, dict[int, dict[float, list]]] = {}
    for r in sorted(records, key=lambda r: r["cell"]["seed"]):
        cell = r["cell"]
        name = cell["method"] + ("_corrected" if cell["options"].get("corrected") else "")
        of_rank = runs.setdefault(name, {}).setdefault(cell["rank"], {})
        of_rank.setdefault(cell["lr"], []).append(r["result"])
    found = {n: {k: _tuned(rates) for k, rates in ranks.items()} for n, ranks in runs.items()}
    for rank, fa in found.get("lora_fa", {}).items():
        if rank in found.get("lora", {}):
            pairs = zip(fa["seeds"], found["lora"][rank]["seeds"], strict=True)
            fa["less_lora"] = spread([a - b for a, b in pairs])
    return found


def _tuned(rates):
    """At the rate of the highest validation score; of equals, of the lower validation loss."""

    def merit(lr):
        parts = [result["validation"] for result in rates[lr][:SEEDS]]
        losses = [99.0 if p["loss"] is None else p["loss"] for p in parts]
        return statistics.fmean(p["exact_match"] for p in parts), -statistics.fmean(losses)

    lr = max(rates, key=merit)
    tests = [result["test"] for result in rates[lr]]
    scores = [test["exact_match"] for test in tests]
    return {
        "lr": lr,
        "at_an_end": lr in (min(rates), max(rates)),
        "trainable": rates[lr][0].get("trainable"),
        "exact_match": spread(scores),
        "loss": spread(99.0 if test["loss"] is None else test["loss"] for test in tests),
        "seeds": scores,
    }


def _of_sgd(records):
    """rank -> plain and corrected: the test loss at the rate that validation chose."""
    runs: dict[int, dict[str, dict[float, list]]] = {}
    for r in records:
        name = "corrected" if r["cell"]["corrected"] else "plain"
        of_name = runs.setdefault(r["cell"]["rank"], {}).setdefault(name, {})
        of_name.setdefault(r["cell"]["lr"], []).append(r["result"])
    found: dict[int, dict[str, Any]] = {}
    for rank, names in runs.items():
        for name, rates in names.items():
            lr = min(rates, key=lambda lr: statistics.fmean(x["validation"] for x in rates[lr]))
            loss = spread(result["test"] for result in rates[lr])
            found.setdefault(rank, {})[name] = {"lr": lr, "loss": loss}
    return found


def _of_scalar(records):
    return {"largest_share": max(r["result"]["losses_differ_by_share"] for r in records)}


def _of_linear(records):
    """(width, rank) -> condition of A Aᵀ and steps, over the seeds."""
    shapes: dict[tuple[int, int], list] = {}
    for r in records:
        shapes.setdefault((r["cell"]["width"], r["cell"]["rank"]), []).append(r["result"])
    return {
        shape: {
            key: spread(result[key] for result in results)
            for key in results[0]
            if all(result[key] is not None for result in results)
        }
        for shape, results in shapes.items()
    }


def _of_memory(records):
    """(shape, "q, v" or "all-linear", rank) -> bytes of LoRA, of LoRA-FA, and the share saved."""
    sizes: dict[tuple[str, str, int], dict[str, dict]] = {}
    for r in records:
        cell = r["cell"]
        where = cell["targets"] if isinstance(cell["targets"], str) else "q, v"
        sizes.setdefault((cell["shape"], where, cell["rank"]), {})[cell["method"]] = r["result"]
    parts = ("weights", "gradients", "optimizer", "activations")
    found = {}
    for place, both in sizes.items():
        totals = {method: sum(both[method][part] for part in parts) for method in both}
        found[place] = {
            **both,
            "activations_saved": 1 - _share(both, "activations"),
            "gradients_and_moments_saved": 1
            - sum(both["lora_fa"][part] for part in parts[1:3])
            / sum(both["lora"][part] for part in parts[1:3]),
            "all_saved": 1 - totals["lora_fa"] / totals["lora"],
        }
    return found


def _share(both, part):
    return both["lora_fa"][part] / both["lora"][part]
