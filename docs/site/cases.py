"""Random cases for the calculator, with the ledger's answers: python docs/site/cases.py FILE."""

import dataclasses
import json
import math
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import minilora as ml
from minilora.llama.architectures import ARCHITECTURES
from minilora.llama.model import ModelConfig
from minilora.llama.shapes import SHAPES
from minilora.memory.count import count
from minilora.memory.tables import PARTS
from minilora.methods import METHODS
from minilora.methods.base import Settings

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MEMORIES = (8, 16, 24, 80)  # GB
LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
WRONG_CONFIGS = [  # text of a config.json -> what the page says
    ("", "got nothing"),
    ("{", "this is not JSON"),
    ("[1]", "got no object"),
    (
        json.dumps({**LLAMA, "model_type": "phi3"}),
        'model_type: got "phi3", wanted one of llama, mi',
    ),
    (json.dumps({**LLAMA, "hidden_size": 0}), "hidden_size: got 0, wanted a whole number"),
    (json.dumps({**LLAMA, "vocab_size": "100"}), 'vocab_size: got "100"'),
    (json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"}), "hidden_size is missing"),
    (json.dumps({**LLAMA, "num_key_value_heads": 3}), "not a multiple of 3 key heads"),
    (json.dumps({**LLAMA, "num_attention_heads": 5}), "size 64 is not a multiple of 5 heads"),
    (json.dumps({**LLAMA, "head_dim": 7}), "head_dim is 7, wanted an even number"),
    (json.dumps({**LLAMA, "attention_bias": True}), "attention_bias: got true, supported is false"),
    (json.dumps({**LLAMA, "hidden_act": "gelu"}), 'hidden_act: got "gelu", supported is "silu"'),
    (json.dumps({**LLAMA, "tie_word_embeddings": 1}), "wanted true or false"),
    (
        json.dumps({**LLAMA, "model_type": "qwen2", "use_sliding_window": True}),
        "use_sliding_window: got true, supported is false",
    ),
    (
        json.dumps({**LLAMA, "model_type": "smollm3", "no_rope_layer_interval": 0}),
        "no_rope_layers: supported is every fourth layer",
    ),
    (json.dumps({**LLAMA, "model_type": "qwen3"}), "heads are not a multiple of 32 key heads"),
]
WRONG_FIELDS = [  # what is typed -> what the page says
    ({"rank": "0"}, 'Rank: got "0", wanted a whole number of at least 1'),
    ({"rank": "eight"}, 'Rank: got "eight"'),
    ({"batch": "-1"}, 'Rows of a batch: got "-1"'),
    ({"length": "1.5"}, 'Tokens of a row: got "1.5"'),
    ({"targets": []}, "Adapted linears: got none"),
]


def config(rng: random.Random) -> ModelConfig:
    """A small model of random sizes: of one layer or more, tied or not, with any head."""
    groups = rng.randint(1, 5)
    heads, even = groups * rng.randint(1, 4), rng.randint(1, 40)
    kind = rng.choice(["llama", *ARCHITECTURES])
    return ModelConfig(
        vocab_size=rng.randint(5, 5000),
        hidden_size=rng.randint(1, 400),
        intermediate_size=rng.randint(1, 900),
        num_hidden_layers=rng.choice([1, 1, 2, 2, 3, 4, 5, 8, 9]),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=2 * even,
        tie_word_embeddings=rng.random() < 0.5,
        model_type=kind,
    )


def draw(rng: random.Random, of: ModelConfig | None = None) -> dict[str, Any]:
    """Arguments of `formulas.evaluate`."""
    return {
        "config": of or config(rng),
        "method": rng.choice(list(METHODS)),
        "rank": rng.choice([1, 2, 4, 8, 16, 64, 256]),
        "targets": tuple(t for t in TARGETS if rng.random() < 0.5) or ("q_proj",),
        "batch": rng.choice([1, 1, 2, 3, 8]),
        "length": rng.choice([1, 2, 16, 63, 64, 65, 100, 128, 129, 200, 257, 400]),
        "mixed": rng.random() < 0.4,
    }


def how(case: dict[str, Any]) -> dict[str, Any]:
    """attach's keywords for a case."""
    taken = METHODS[case["method"]].takes
    return {k: case[k] for k in ("rank", "targets") if k in taken}


def ledger_of(case: dict[str, Any]) -> dict[str, int]:
    """The ledger's own numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ranks above a width
        row = ml.ledger(
            case["config"],
            case["batch"],
            case["length"],
            method=case["method"],
            mixed=case["mixed"],
            **how(case),
        )
    return {name: getattr(row, name) for name in PARTS}


def on_disk(case: dict[str, Any]) -> int:
    """How many numbers `save_adapter` would write, from arrays as it writes them."""
    record, sizes = METHODS[case["method"]], case["config"].linears()
    if record.whole_model:
        return sum(math.prod(shape) for shape in case["config"].shapes().values())
    chosen = {n: s for n, s in sizes.items() if n.rsplit(".", 1)[-1] in case["targets"]}
    options, rank = {**record.options, "alpha": 1.0}, case["rank"]
    shared: dict[str, Any] = {}
    if record.prepare:
        shared = record.prepare(list(chosen.values()), rank, options, np.zeros(1, np.float32))
    rng, layers = np.random.default_rng(0), {}
    for name, shape in chosen.items():
        W = np.ones(shape, np.float32)
        own = {"W": W} if record.owns_weight else {}
        layers[name] = own | record.init(W, rank, options, rng, shared)
    assert record.peft
    _, written = record.peft.to_peft(Settings(rank, 1.0, options, {}, {}), layers)
    own = sum(a.size for row in written.values() for a in row.values())
    return own + sum(a.size for a in shared.values())


def browser_cases(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """n random configs, a few published shapes, and what is wrong: fields to fill, and answers."""
    rng, found = random.Random(seed), []
    for _ in range(n):
        case = draw(rng)
        fields = {k: v for k, v in dataclasses.asdict(case["config"]).items() if v is not None}
        text = json.dumps(fields)
        found.append(_fields(case, "own", text) | _wanted(case, on_disk(case)))
    for name, shape in SHAPES.items():
        if shape.llama:
            case = draw(rng, ModelConfig(**shape.config_fields()))
            found.append(_fields(case, name) | _wanted(case))
        else:
            method = rng.choice(["lora", "lora_fa", "vera"])
            row = count(shape, method, rank=4, targets=("q_proj", "v_proj"))
            fields = {"model": name, "method": method, "rank": "4", "targets": ["q_proj", "v_proj"]}
            found.append(fields | {"wanted": {"trained numbers": row["trainable"]}})
    plain = {"method": "lora", "rank": "8", "batch": "1", "length": "64", "targets": ["q_proj"]}
    plain |= {"precision": "float32"}
    for text, said in WRONG_CONFIGS:
        found.append({**plain, "model": "own", "config": text, "error": said})
    for wrong, said in WRONG_FIELDS:
        found.append({**plain, "model": "smollm2-135m", **wrong, "error": said})
    return found


def _fields(case, model, text=None):
    fields = {k: str(case[k]) for k in ("method", "rank", "batch", "length")}
    given = {"config": text} if text else {}
    precision = "mixed" if case["mixed"] else "float32"
    return {"model": model, **given, **fields, "targets": case["targets"], "precision": precision}


def _wanted(case, disk=None):
    row = ledger_of(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ranks above a width
        counted = count(case["config"], case["method"], **how(case))
    wanted = row | {"trained numbers": counted["trainable"]}
    if disk is not None:
        wanted["adapter file"] = 4 * disk
    fits = [f"{gb} {str(row['peak'] <= gb * 10**9).lower()}" for gb in MEMORIES]
    return {"wanted": wanted, "fits": fits}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(browser_cases(200)), encoding="utf-8")
