"""Mistral, Qwen2, Qwen3, SmolLM3 and their tokenizers against transformers, PEFT and gguf: make
test-oracles. Each test prints its largest difference: pytest -rP.
"""

import copy
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import minilora as ml
from minilora.engine import backward
from minilora.formats.gguf_llama import REORDERED
from minilora.formats.gguf_tokenizer import read_tokenizer

pytestmark = [
    pytest.mark.oracles,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]
torch = pytest.importorskip("torch", reason="extra: oracles")
transformers = pytest.importorskip("transformers", reason="extra: oracles")
peft = pytest.importorskip("peft", reason="extra: oracles")
gguf = pytest.importorskip("gguf", reason="extra: oracles")
sys.path.append(str(Path(__file__).parents[1] / "text"))
import test_families as forms  # noqa: E402

VOCABULARY, LAYERS = 97, 5
SIZES = dict(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# within the vocabulary; an embedding's row of the padding would get no gradient
IDS_OF_SMOLLM3 = dict(pad_token_id=None, bos_token_id=1, eos_token_id=2)
CASES = {  # transformers' configuration, and what it gets beside SIZES
    "llama": (transformers.LlamaConfig, {}),
    "llama, scaled": (transformers.LlamaConfig, {"rope_parameters": LLAMA3}),
    "mistral": (transformers.MistralConfig, {"sliding_window": None, "head_dim": 24}),
    "mistral, window": (transformers.MistralConfig, {"sliding_window": 17}),
    "qwen2": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 32}),
    "smollm3": (transformers.SmolLM3Config, IDS_OF_SMOLLM3),
    "smollm3, listed": (
        transformers.SmolLM3Config,
        {**IDS_OF_SMOLLM3, "no_rope_layers": [0, 1, 1, 0, 1]},
    ),
}
each_case = pytest.mark.parametrize("case", CASES)
RNG = np.random.default_rng(0)
IDS, TARGETS = RNG.integers(0, VOCABULARY, (2, 3, 17))
TARGETS[0, :5] = TARGETS[2, 9:] = -100


def random_model(case):
    """transformers' model with weights far from 0, gains far from 1 and biases far from 0."""
    config, more = CASES[case]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config(**{**SIZES, **more})).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.3) if p.ndim == 1 else p.mul_(3)
    return theirs


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    """The same model in both libraries."""
    theirs = random_model(request.param)
    theirs.save_pretrained(tmp_path / "base")
    return theirs, ml.load_model(tmp_path / "base")


def exact(theirs):
    """A copy in float64 throughout: transformers takes norms and rotations through float32."""

    def norm(module, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        return module.weight * (x * scale)

    def rotation(module, x, position_ids):
        freq, rope = module.inv_freq.double(), module.config.rope_parameters
        if rope["rope_type"] == "default":
            freq = rope["rope_theta"] ** -(torch.arange(len(freq)).double() / len(freq))
        angle = torch.cat([position_ids[..., None] * freq] * 2, dim=-1)
        return angle.cos(), angle.sin()

    wide = copy.deepcopy(theirs).double()
    for module in wide.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = functools.partial(norm, module)
        if hasattr(module, "inv_freq"):
            module.forward = functools.partial(rotation, module)
    return wide


@pytest.fixture
def wide(pair):
    """The same model in both libraries in float64, and the largest difference allowed: Llama 3's
    scaled wavelengths are float32 in transformers.
    """
    theirs, mine = pair
    return exact(theirs), mine.astype(np.float64), 1e-5 if mine.config.rope_scaling else 1e-9


def logits(model):
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.numpy()


def far(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def say(what, number, most):
    print(f"{what}: {number:.1e}, allowed {most:g}")
    assert number <= most, what


def test_logits_and_greedy_text(pair, wide):
    theirs, mine = pair
    say("logits, float32", far(logits(theirs), mine.logits(IDS)), 1e-5)
    say("logits, float64", far(logits(wide[0]), wide[1].logits(IDS)), wide[2])
    theirs.generation_config.eos_token_id = None
    short, new = IDS[:, :7], 10  # within the window
    text = theirs.generate(
        torch.from_numpy(short),
        attention_mask=torch.ones(short.shape, dtype=torch.long),
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )
    assert np.array_equal(text.numpy(), mine.generate(short, new))


def test_beyond_the_window_transformers_computes_something_else(tmp_path):
    """So it is right to refuse what is longer, and only that."""
    theirs = random_model("mistral, window")
    theirs.save_pretrained(tmp_path)
    plain = copy.deepcopy(theirs)
    plain.config.sliding_window = None
    longer = torch.from_numpy(np.concatenate([IDS, IDS[:, :1]], axis=1))
    with torch.no_grad():
        windowed, causal = (m(longer).logits.numpy() for m in (theirs, plain))
    assert far(windowed[:, :17], causal[:, :17]) < 1e-5 < 1e-3 < far(windowed, causal)
    with pytest.raises(ValueError, match="a row of 18 tokens, wanted at most 17"):
        ml.load_model(tmp_path).logits(longer.numpy())


def their_loss(model):
    out = model(torch.from_numpy(IDS)).logits
    targets = torch.from_numpy(TARGETS)
    return torch.nn.functional.cross_entropy(out.flatten(0, 1), targets.flatten())


def with_lora(theirs, folder):
    """PEFT's LoRA on two linears, with B far from 0, as it saves it."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    model = peft.get_peft_model(copy.deepcopy(theirs), config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(folder)
    return model


def test_gradients_of_lora_in_float64(wide, tmp_path):
    theirs, mine, most = wide
    model = with_lora(theirs, tmp_path / "adapter")
    loss = their_loss(model)
    loss.backward()
    tuned = ml.load_adapter(mine, tmp_path / "adapter")
    leaves = tuned.leaves()
    own = tuned.loss(IDS, TARGETS, leaves=leaves)
    backward(own)
    say("loss", abs(float(own.data) - float(loss)), most)
    grads = {n.replace(".default", ""): p.grad for n, p in model.named_parameters()}
    grads = {n: g.numpy() for n, g in grads.items() if g is not None}
    assert grads.keys() == leaves.keys()
    worst = max(far(leaves[n].grad, g) / np.abs(g).max() for n, g in grads.items())
    say("gradients, of the largest entry", worst, most)


def test_gradients_of_every_array_in_float64(wide):
    """Biases and the gains of the heads among them."""
    theirs, mine, most = wide
    their_loss(theirs).backward()
    tuned = ml.attach(mine, "full")
    leaves = tuned.leaves()
    backward(tuned.loss(IDS, TARGETS, leaves=leaves))
    grads = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
    assert grads.keys() == leaves.keys()
    worst = max(far(leaves[n].grad, g) / np.abs(g).max() for n, g in grads.items())
    say("gradients, of the largest entry", worst, most)


def test_thirty_steps_and_the_adapter_back_in_peft(wide, tmp_path):
    theirs, mine, most = wide
    model = with_lora(theirs, tmp_path / "adapter")
    tuned = ml.load_adapter(mine, tmp_path / "adapter")
    say("PEFT's adapter here", far(logits(model), tuned.logits(IDS)), most)
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(moving, lr=1e-2, weight_decay=0.0), []
    for _ in range(30):
        loss = their_loss(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    history = ml.train(tuned, [(IDS, TARGETS)], steps=30, lr=1e-2)
    assert losses[-1] < 0.8 * losses[0]
    say("losses of 30 steps", far(history.losses, losses), 100 * most)
    ml.save_adapter(tuned, tmp_path / "back")
    back = peft.PeftModel.from_pretrained(copy.deepcopy(theirs), tmp_path / "back").eval()
    say("the adapter in PEFT", far(logits(back), tuned.logits(IDS)), most)


def test_transformers_loads_what_save_model_writes(pair, tmp_path):
    theirs, mine = pair
    ml.save_model(mine, tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert type(again) is type(theirs)
    say("logits of the saved model", far(logits(again), logits(theirs)), 0)
    assert ml.load_model(tmp_path / "saved").config == mine.config


def interleaved(w, heads):
    """llama.cpp's order of a head's rows."""
    return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, case, theirs):
    """By the gguf package: its writer, and its own table of names."""
    c = theirs.config
    kind = "llama" if c.model_type == "mistral" else c.model_type
    D = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    file = gguf.GGUFWriter(path, kind)
    file.add_context_length(c.max_position_embeddings)
    file.add_embedding_length(c.hidden_size)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(c.intermediate_size)
    file.add_head_count(c.num_attention_heads)
    file.add_head_count_kv(c.num_key_value_heads)
    file.add_layer_norm_rms_eps(c.rms_norm_eps)
    file.add_rope_freq_base(c.rope_parameters["rope_theta"])
    file.add_key_length(D)
    file.add_value_length(D)
    file.add_rope_dimension_count(D)
    file.add_vocab_size(VOCABULARY)
    file.add_tokenizer_model("none")
    if window := getattr(c, "sliding_window", None):
        file.add_sliding_window(window)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), LAYERS)
    for name, p in theirs.state_dict().items():
        a, part = p.numpy(), name.rsplit(".", 2)[-2]
        heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}.get(part)
        if heads and REORDERED[kind]:
            a = interleaved(a, heads)
        if not (name == "lm_head.weight" and c.tie_word_embeddings):
            file.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(a))
    if case == "llama, scaled":  # as convert_hf_to_gguf.py computes it
        wavelengths = 2 * np.pi * 5e5 ** (np.arange(0, D, 2) / D)
        smooth = (8192 / wavelengths - 1) / (4 - 1)
        between = 1 / ((1 - smooth) / 8 + smooth)
        factors = np.where(wavelengths > 8192, 8, np.where(wavelengths < 8192 / 4, 1, between))
        file.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@pytest.mark.parametrize("case", [c for c in CASES if c != "smollm3, listed"])
def test_a_gguf_file(case, tmp_path):
    """transformers' own reader lacks SmolLM3, and Qwen3 with heads of another size than C / H."""
    theirs, path = random_model(case), tmp_path / "x.gguf"
    write_gguf(path, case, theirs)
    mine = ml.load_model(path)
    say("logits", far(logits(theirs), mine.logits(IDS)), 1e-5)
    assert mine.config.model_type == ("mistral" if "window" in case else case.split(",")[0]) or (
        case == "mistral" and mine.config.model_type == "llama"
    )
    assert bool(mine.config.rope_scaling) == (case == "llama, scaled")
    if case in ("llama", "mistral", "qwen2"):
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
        say("logits of transformers' reader", far(logits(again.eval()), mine.logits(IDS)), 1e-5)


# ---- tokenizers

CLASSES = {"qwen2": ["Qwen2Tokenizer"], "mistral 0.3": ["LlamaTokenizerFast"]}


@pytest.mark.parametrize("family", forms.FAMILIES)
def test_ids_are_transformers(family, tmp_path):
    """Of the family's files, and of those that are saved from here; in each class that fits."""
    special = {"bos_token": "<s>"} if family.startswith("mistral 0") else {}
    for name in ["PreTrainedTokenizerFast", *CLASSES.get(family, [])]:
        forms.folder(tmp_path, family, tokenizer_class=name, **special)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        mine = ml.text.byte_pairs.BytePairTokenizer.load(tmp_path)
        for text in [*forms.TEXTS, *forms.SPACED]:
            assert theirs(text)["input_ids"] == mine.encode(text), (name, text)
            assert theirs.decode(mine.encode(text), skip_special_tokens=True) == mine.decode(
                mine.encode(text)
            ), (name, text)
    for name, data in mine.files().items():
        (tmp_path / name).write_bytes(data)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.bos_token_id == mine.bos_id and again.eos_token_id == mine.eos_id
    for text in [*forms.TEXTS, *forms.SPACED]:
        assert again(text)["input_ids"] == mine.encode(text), text


@pytest.mark.parametrize("adds", [True, False])
def test_what_the_config_adds_is_transformers(tmp_path, adds):
    forms.folder(tmp_path, "mistral", bos_token="<s>", add_bos_token=adds)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    mine = ml.text.byte_pairs.BytePairTokenizer.load(tmp_path)
    assert theirs("a b")["input_ids"] == mine.encode("a b")


@pytest.mark.parametrize("family", [f for f in forms.FAMILIES if f != "mistral 0.3"])
def test_ids_of_a_gguf_file_are_transformers(family):
    """Of its own reader. It differs by design in two ways: it puts no "▁" before a text that begins
    with a space, where llama.cpp and SentencePiece do; and it does not cut digits off for SmolLM2.
    """
    mapping = pytest.importorskip("transformers.integrations.gguf.gguf_tokenizer_mapping")
    about = forms.metadata(family)
    mine = read_tokenizer(about)
    renamed = {"model": "tokenizer_type", "pre": "pre_tokenizer_type"}
    fields = {k.removeprefix("tokenizer.ggml."): v for k, v in about.items()}
    fields = {renamed.get(k, k): v for k, v in fields.items()}
    theirs, _ = mapping.convert_gguf_tokenizer("llama", fields)
    begin = [] if mine.bos_id is None else [mine.bos_id]
    for text in forms.TEXTS if family == "mistral" else [*forms.TEXTS, *forms.SPACED]:
        if family == "smollm2" and any(c.isdigit() for c in text):
            continue
        if family == "qwen2":
            text = text.replace("\u0301", "")  # composed here and by Qwen's tokenizer.json alone
        if "<" in text and family == "mistral":
            continue  # its "▁" stands before the first part of a text alone
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert [*begin, *ids] == mine.encode(text), text


def test_the_config_of_each_published_shape_is_read_by_transformers(tmp_path):
    """Sizes and number of weights, without a weight."""
    from minilora.formats.config import config_json, read_config
    from minilora.llama.model import Llama, ModelConfig
    from minilora.llama.shapes import SHAPES
    from minilora.support.meta import Meta

    for shape in [s for s in SHAPES.values() if s.llama]:
        config = ModelConfig(**shape.config_fields())
        model = Llama(config, {n: Meta(s, np.float32) for n, s in config.shapes().items()})
        (tmp_path / "config.json").write_text(json.dumps(config_json(model)))
        assert read_config(tmp_path / "config.json") == config
        with torch.device("meta"):
            theirs = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.from_pretrained(tmp_path)
            )
        wanted = {n: tuple(p.shape) for n, p in theirs.named_parameters()}
        assert wanted == config.shapes(), shape.name
