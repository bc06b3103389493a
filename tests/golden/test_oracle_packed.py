"""Weights in fewer bits, against the libraries that own their forms: bitsandbytes and gguf.

bitsandbytes changes its second level from version to version: the codes of the scales are compared
with the rule of the version that `make test-oracles` installs.
"""

import warnings

import numpy as np
import pytest
from conftest import rel

import minilora as ml
from minilora.formats.forms import FORMS, in_nf4
from minilora.formats.gguf import PACKINGS
from minilora.ops import nf4
from minilora.support.packed import Packed, blocks_of

pytestmark = pytest.mark.oracles

torch = pytest.importorskip("torch", reason="extra: oracles")
bnb = pytest.importorskip("bitsandbytes", reason="extra: oracles")
BNB = "0.50.2"
pinned = pytest.mark.skipif(bnb.__version__ != BNB, reason=f"the rule of bitsandbytes {BNB}")


def far(a, b) -> float:
    return float(np.abs(a - b).max())


def theirs(W):
    """bitsandbytes' parts of a matrix, and what it makes of them."""
    codes, state = bnb.functional.quantize_4bit(
        torch.from_numpy(W), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    second = state.state2.absmax.numpy()
    mean = np.array(state.offset.numpy(), np.float32)
    back = bnb.functional.dequantize_4bit(codes, state).numpy()
    return (codes.numpy().reshape(-1), state.absmax.numpy(), second, mean), back


def test_its_levels():
    given = bnb.functional.get_4bit_type("nf4", device="cpu").numpy()
    assert np.array_equal(np.float32(nf4.LEVELS), given)
    assert np.array_equal(nf4.dynamic_levels(), bnb.functional.create_dynamic_map().numpy())


CASES = {
    "normal": lambda rng: rng.standard_normal((576, 1536)) * 0.02,
    "large": lambda rng: rng.standard_normal((2048, 2048)) * 0.02,
    "heavy tails": lambda rng: rng.standard_t(3, (576, 1536)) * 0.02,
    "rows of 0": lambda rng: rng.standard_normal((64, 128)) * (np.arange(64) > 8)[:, None],
    "blocks over two rows": lambda rng: rng.standard_normal((48, 40)),
}


@pinned
@pytest.mark.parametrize("case", CASES)
def test_nf4_is_bitsandbytes(case, rng):
    """Whole blocks: the codes are equal; the scales are, too, by its own rule for them."""
    W = CASES[case](rng).astype(np.float32)
    (codes, c2, c1, mean), back = theirs(W)
    mine, *scales = nf4.quantise(W)
    assert np.array_equal(mine, codes)
    # all its own parts: the same bits
    assert np.array_equal(nf4.dequantise(codes, c2, c1, mean, W.shape), back)
    # its second level: torch's mean, and a table of 65,536 places in place of the nearest level
    absmax = nf4.quantise_blocks(W.reshape(-1))[1]
    same_mean = torch.from_numpy(absmax).mean().numpy()
    assert np.array_equal(same_mean, mean) and abs(scales[2] - mean) <= 2 * np.spacing(mean)
    assert np.array_equal(by_table(absmax - mean), c2)
    assert np.mean(scales[0] != c2) < 0.02
    W2 = nf4.dequantise(mine, *scales, W.shape)
    assert rel(W2, W) < 0.13 and rel(W2, back) < 2e-3


def by_table(a):
    """The codes of scales in blocks of 256: a place in -1 … 1, and the level nearest to that."""
    blocks = nf4.in_blocks(a, nf4.SECOND)
    inverse = 1 / np.maximum(np.abs(blocks).max(axis=1), np.float32(1e-38))
    scaled = np.clip(blocks * inverse[:, None], -1, 1)
    levels, places = nf4.dynamic_levels(), np.arange(65536, dtype=np.float32)
    middles = np.float32(0.5) * (levels[:-1] + levels[1:])
    table = np.searchsorted(middles, np.float32(-1) + 2 * places / np.float32(65535))
    half = ((scaled + np.float32(1)) * np.float32(0.5)).astype(np.float64)
    at = (half * 65535 + 0.5).astype(np.float32).astype(np.int64)
    return table[at.clip(0, 65535)].reshape(-1)[: len(a)].astype(np.uint8)


def test_a_partial_last_block_is_near(rng):
    """There bitsandbytes divides, where it else multiplies by 1/absmax."""
    W = rng.standard_normal((7, 9)).astype(np.float32)
    (codes, *_), back = theirs(W)
    mine = nf4.quantise(W)
    assert (mine[0][:-1] != codes[:-1]).sum() <= 1
    assert rel(nf4.dequantise(*mine, W.shape), back) < 0.05


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small Llama by transformers; the same in 4 bits by bitsandbytes; an adapter by PEFT on it,
    and its logits and 30 losses.
    """
    peft = pytest.importorskip("peft", reason="extra: oracles")
    transformers = pytest.importorskip("transformers", reason="extra: oracles")
    folder = tmp_path_factory.mktemp("nf4")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    whole = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for p in whole.parameters():
            if p.ndim > 1:
                p.mul_(3)
    whole.save_pretrained(folder / "whole")
    how = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder / "whole", quantization_config=how, dtype=torch.float32
        )
        model.save_pretrained(folder / "nf4")
        # in eval mode this version packs W again, for a product in bfloat16
        model.train()
        logits = model(torch.from_numpy(IDS)).logits.detach().numpy()
        tuned = peft.get_peft_model(
            model, peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
        )
        with torch.no_grad():
            for name, p in tuned.named_parameters():
                if "lora_B" in name:
                    p.add_(torch.randn_like(p) * 0.05)
        tuned.save_pretrained(folder / "adapter")
    moved = [p for p in tuned.parameters() if p.requires_grad]
    adam, losses = torch.optim.AdamW(moved, lr=1e-2, weight_decay=0.0), []
    for _ in range(30):
        out = tuned(torch.from_numpy(IDS)).logits.float().reshape(-1, 97)
        loss = torch.nn.functional.cross_entropy(out, torch.from_numpy(TARGETS).reshape(-1))
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss))
    return folder, logits, losses


IDS, TARGETS = np.random.default_rng(0).integers(0, 97, (2, 3, 17))
TARGETS[0, :5] = -100


def test_a_peft_and_bitsandbytes_checkpoint_is_read(folders):
    """With its codes: the logits, and 30 steps from PEFT's adapter within 1e-5."""
    folder, logits, losses = folders
    model = ml.load_model(folder / "nf4", weights="stored")
    linears = {model.params[f"{name}.weight"].form for name in model.config.linears()}
    assert linears == {"nf4"}
    assert far(logits, model.logits(IDS)) < 1e-5
    tuned = ml.load_adapter(model, folder / "adapter")
    found = ml.train(tuned, [(IDS, TARGETS)], steps=30, lr=1e-2).losses
    assert np.abs(np.array(found) - losses).max() < 1e-5 and losses[-1] < losses[0] / 2
    # unpacked, it is the same model
    whole = ml.load_model(folder / "nf4")
    assert far(logits, whole.logits(IDS)) < 1e-5


def test_with_our_own_codes_the_steps_are_near(folders):
    folder, logits, losses = folders
    model = ml.load_model(folder / "whole", weights="nf4")
    assert far(logits, model.logits(IDS)) < 0.02
    tuned = ml.load_adapter(model, folder / "adapter")
    found = ml.train(tuned, [(IDS, TARGETS)], steps=30, lr=1e-2).losses
    assert np.abs(np.array(found) - losses).max() < 0.02


@pytest.mark.parametrize("kind", PACKINGS)
def test_every_packing_has_the_bits_of_gguf(kind, rng):
    """Random bytes: every code, scale and minimum, infinite and NaN ones among them."""
    gguf = pytest.importorskip("gguf", reason="extra: oracles")
    packing = PACKINGS[kind]
    blocks = rng.integers(0, 256, (4096, packing.nbytes), dtype=np.uint8)
    given = blocks.reshape(-1) if packing.weights == 1 else blocks
    with np.errstate(all="ignore"):
        wanted = gguf.dequantize(given, gguf.GGMLQuantizationType(kind)).reshape(64, -1)
        W = Packed(packing, wanted.shape, [blocks.reshape(64, -1)])
        mine = np.asarray(W)
    same = (mine.view(np.uint32) == wanted.view(np.uint32)) | (np.isnan(mine) & np.isnan(wanted))
    assert same.all() and np.isfinite(mine).mean() > 0.9
    assert W.nbytes == packing.size(W.shape)


def test_int8_is_ggufs_q8_0(rng):
    """Up to ties: gguf rounds half away from zero."""
    from minilora.formats.forms import put

    gguf = pytest.importorskip("gguf", reason="extra: oracles")
    W = rng.standard_normal((64, 96)).astype(np.float32)
    (mine,) = put("x", "W", W, "Q8_0").parts
    wanted = gguf.quantize(W, gguf.GGMLQuantizationType.Q8_0).reshape(64, -1)
    assert np.array_equal(mine, wanted)
    (mine,) = put("x", "W", W, "BF16").parts
    assert np.array_equal(mine, gguf.quantize(W, gguf.GGMLQuantizationType.BF16).reshape(64, -1))
    assert FORMS["nf4"].size(W.shape) == in_nf4(W.shape, blocks_of(W, 64)).nbytes
