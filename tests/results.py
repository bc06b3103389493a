"""Results of a comparison, made up for tests: none of them is measured."""

import math


def a_row(title, trainable, scores, rank=4):
    """One row of results, its numbers unlike each other's."""
    mean = sum(scores) / len(scores)
    return {
        "title": title,
        "trainable": trainable,
        "exact_match": mean,
        "exact_match_sd": math.dist(scores, [mean] * len(scores)),
        "seeds": scores,
        "loss": 1.1 - mean,
        "lr": 0.0123,
        "rank": rank,
        "alpha": rank and 2 * rank,
        "targets": ["q_proj", "v_proj"],
        "options": {"ratio": 16.0} if rank else {},
        "adapter_bytes": 4 * trainable + 2040,
        "bytes": {
            "weights": 2_883_584 + 4 * trainable,
            "gradients": 4 * trainable,
            "optimizer": 8 * trainable,
            "activations": 20_000_000 + 900 * len(title),
        },
        "bytes_at": [32, 29, 600],
        "rectangle_activations": 30_000_000,
        "ms_per_step": 25 + trainable / 1e5,
        "curve": [[n, 3 / n, 4 / n + 0.05] for n in (10, 20, 30)],
    }


def make_results(seeds=2, scratch=True, answer="walked", only=None):
    """Two methods and a sixth one that nobody has heard of, as compare gives them."""
    methods = {
        "full": a_row("Full fine-tuning", 720_896, [0.91, 0.902][:seeds], None),
        "lora": a_row("LoRA", 7168, [0.88, 0.87][:seeds]),
        "thing": a_row("A & <Thing>", 2816, [0.81, 0.86][:seeds], 64),
    }
    methods = {name: methods[name] for name in only or methods}
    every = [*methods, *(["scratch"] if scratch else [])]
    settings = dict(base="base", task="past", methods=tuple(methods), train_size=300, steps=30)
    settings |= dict(batch_size=32, rank=4, ranks={"thing": 64}, targets=("q_proj", "v_proj"))
    settings |= dict(seeds=seeds, validation_size=600, test_size=655, betas=(0.9, 0.98))
    results = {
        "base": {"name": "base", "parameters": 720_896},
        "task": "past",
        "settings": settings,
        "rates": {"given": ["thing"], "differences": []},
        "references": {"base": 0.0, "rule_ed": 0.4992, "rule_four": 0.9511},
        "methods": methods,
        "examples": [
            {
                "prompt": f"D{word}>",
                "right": ["walked", "wolk"],
                "answers": dict.fromkeys(every, answer),
            }
            for word in ("walk", "wɔk", "<b>")
        ],
    }
    if scratch:
        results["references"]["scratch"] = 0.02
        results["scratch"] = a_row("From scratch", 720_896, [0.02, 0.02][:seeds], None)
    return results
