"""What this version saves, for later versions to load: a tiny base, an adapter of each technique.

    python tests/golden/make_saved.py tests/golden/saved_by_0.2.0    # once, before a release

Options that change an adapter's form on disk are not the default ones. logits.safetensors has the
logits of the base and of each adapter, as this version computed them. Only public names are used.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import minilora as ml

GOLDEN = Path(__file__).parent
OPTIONS = {  # technique -> what attach is given beside its rank and its targets
    "lora": {"rank_stabilized": True, "rank_pattern": {"q_proj": 3}},
    "lora_fa": {"corrected": True},
    "delta_lora": {"update_ratio": 0.5, "start_step": 1},
    "lora_plus": {"ratio": 4.0},
}
LINEARS = {"rank": 2, "targets": ("q_proj", "v_proj", "down_proj")}


def main(folder: Path) -> None:
    """Write FOLDER/base, FOLDER/TECHNIQUE and FOLDER/logits.safetensors."""
    with safe_open(GOLDEN / "base.safetensors", "np") as file:
        config = json.loads(file.metadata()["config"])
    arrays = load_file(GOLDEN / "base.safetensors")
    ids = arrays.pop("ids")[0]
    del arrays["targets"]
    params = {name: a.astype(np.float32) for name, a in arrays.items()}
    model = ml.Llama(ml.ModelConfig(**config), params)
    ml.save_model(model, folder / "base")
    logits = {"base": model.logits(ids)}
    for name, method in ml.METHODS.items():
        how = {} if method.whole_model else {**LINEARS, **OPTIONS.get(name, {})}
        tuned = ml.attach(model, name, **how)
        ml.train(tuned, [(ids, ids)], steps=3, lr=0.02)
        ml.save_adapter(tuned, folder / name)
        logits[name] = tuned.logits(ids)
    save_file({"ids": ids, **logits}, folder / "logits.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
