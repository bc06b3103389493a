"""A model of 1.2 billion parameters is loaded and tuned in the memory of a small machine."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from minilora.llama.model import ModelConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc"),
]

SIZES = dict(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    rope_theta=5e5,
    tie_word_embeddings=True,
)
CODE = """
import re, sys, threading, time
import numpy as np
import minilora as ml

most = 0

def watch():
    "The most anonymous memory so far: pages of the mapped file can be dropped at any time."
    global most
    while True:
        with open("/proc/self/status") as f:
            most = max(most, int(re.search(r"RssAnon:\\s+(\\d+)", f.read())[1]))
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
model = ml.load_model(sys.argv[1], weights="nf4")
loaded, held = most, sum(a.nbytes for a in model.params.values())
tuned = ml.attach(model, "lora", rank=8)
ids = np.random.default_rng(0).integers(0, 128256, (1, 256))
losses = ml.train(tuned, [(ids, ids)], steps=1, lr=1e-4).losses
print(loaded * 1024, held, most * 1024, *losses, ml.ledger(tuned, 1, 256).peak)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights in bfloat16, 2.5 GB."""
    folder, config = tmp_path_factory.mktemp("large"), ModelConfig(**SIZES)
    rng, header, end = np.random.default_rng(0), {}, 0
    pool = rng.standard_normal(1 << 24).astype(np.float32) * np.float32(0.02)
    one, pool = ((a.view(np.uint32) >> 16).astype("<u2") for a in (np.ones(1, np.float32), pool))
    for name, shape in config.shapes().items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for shape in config.shapes().values():
            left = int(np.prod(shape))
            while left:
                part = np.repeat(one, left) if len(shape) == 1 else pool[rng.integers(1 << 20) :]
                f.write(part[:left].tobytes())
                left -= min(left, len(part))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **SIZES}))
    yield folder
    (folder / "model.safetensors").unlink()


def test_1_2_billion_parameters_in_nf4(folder):
    assert sum(np.prod(s) for s in ModelConfig(**SIZES).shapes().values()) > 1.2e9
    run = [sys.executable, "-c", CODE, str(folder)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded, held, most, loss, peak = map(float, done.stdout.split())
    assert held < 1.6e9  # 1.05 GB of it the embedding in float32
    assert loaded < 2.5e9 and loaded < held + 0.4e9
    assert most < 4e9 and np.isfinite(loss)
    assert most < 1.1 * peak + 0.4e9
