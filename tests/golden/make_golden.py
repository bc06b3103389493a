"""The golden trajectories: what PEFT and torch do to a tiny random Llama in 30 AdamW steps.

    python tests/golden/make_golden.py        # writes the files beside this one; extra: oracles

All in float64. transformers takes RMSNorm and the rotation's tables through float32 whatever the
model's precision, so both are replaced by their formulas here, and the loss is torch's own on the
logits. Every start is drawn away from zero: at B = 0 a wrong gradient of A would not be seen.
A file holds start.* and end.* (arrays under their names on disk) and losses; its metadata says what
was run.
"""

import contextlib
import json
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from peft import LoraConfig, VeraConfig, get_peft_model, get_peft_model_state_dict
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, lorafa
from safetensors.numpy import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

HERE = Path(__file__).parent
STEPS = 30
SHAPE = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
LORA = {"rank": 3, "alpha": 5}
CASES = {  # name -> method, what attach is given, what train is given
    "full": ("full", {}, {"lr": 3e-3, "weight_decay": 0.1}),
    "lora": ("lora", LORA, {"lr": 1e-2}),
    "lora_rank_stabilized": ("lora", {**LORA, "rank_stabilized": True}, {"lr": 1e-2}),
    "lora_all_linear": ("lora", {**LORA, "targets": "all-linear"}, {"lr": 3e-3}),
    "lora_weight_decay": ("lora", LORA, {"lr": 1e-2, "weight_decay": 0.2}),
    "lora_fa": ("lora_fa", LORA, {"lr": 1e-2, "weight_decay": 0.1}),
    "lora_fa_corrected": ("lora_fa", {**LORA, "corrected": True}, {"lr": 1e-2}),
    "vera_saved": ("vera", {"rank": 6}, {"lr": 3e-2}),
    "vera_from_its_key": ("vera", {"rank": 6, "projection_prng_key": 7}, {"lr": 3e-2}),
    "lora_plus": ("lora_plus", {**LORA, "ratio": 4.0}, {"lr": 3e-3, "weight_decay": 0.1}),
    "delta_lora": ("delta_lora", {**LORA, "update_ratio": 1.5}, {"lr": 1e-2}),
    "delta_lora_later": (
        "delta_lora",
        {**LORA, "update_ratio": 0.5, "start_step": 10},
        {"lr": 1e-2, "weight_decay": 0.1},
    ),
    "dora": ("dora", LORA, {"lr": 1e-2}),
    "dora_weight_decay": (
        "dora",
        {**LORA, "rank_stabilized": True},
        {"lr": 1e-2, "weight_decay": 0.2},
    ),
}


def make_base():
    """The model's arrays, and three batches of ids and targets in which some do not count."""
    rng = np.random.RandomState(0)  # a stream that NumPy keeps for good
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    arrays = {}
    for name, p in model.named_parameters():
        drawn = 0.3 * rng.standard_normal(tuple(p.shape)) + ("norm" in name)
        arrays[name] = drawn.astype(np.float32)
    ids = rng.randint(0, SHAPE["vocab_size"], (3, 2, 10))
    targets = np.roll(ids, -1, axis=2)
    targets[:, :, -1] = -100
    targets[:, 0, :4] = -100
    return arrays | {"ids": ids, "targets": targets}


def make_case(name):
    """Run one case  ->  the arrays of its file, and its metadata."""
    method, attach, train = CASES[name]
    base = make_base()
    batches = [tuple(map(torch.tensor, pair)) for pair in zip(base["ids"], base["targets"])]
    config = LlamaConfig(**SHAPE, attn_implementation="sdpa")  # "eager" has a float32 softmax
    model = LlamaForCausalLM(config).double()
    weights = {k: torch.tensor(a) for k, a in base.items() if k not in ("ids", "targets")}
    model.load_state_dict(weights, strict=False)
    model = adapted(model, name, method, attach)
    start = {} if method == "full" else state(model)
    step = stepper(model, method, attach, train)
    losses = []
    with in_float64():
        for n in range(STEPS):
            ids, targets = batches[n % len(batches)]
            logits = model(input_ids=ids, use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
            model.zero_grad()
            loss.backward()
            step(n + 1)
            losses.append(loss.item())
    arrays = {f"start.{k}": a.astype(np.float32) for k, a in start.items()}
    arrays |= {f"end.{k}": a for k, a in end(model, method).items()}
    about = {"method": method, "attach": attach, "train": {**train, "steps": STEPS}}
    return arrays | {"losses": np.array(losses)}, {"about": json.dumps(about)}


def adapted(model, name, method, attach):
    """The model with PEFT's adapter on it, at a start away from zero."""
    if method == "full":
        return model
    targets = attach.get("targets", ["q_proj", "v_proj"])
    common = {"r": attach["rank"], "target_modules": targets, "task_type": "CAUSAL_LM"}
    if method == "vera":
        key = attach.get("projection_prng_key", 0)
        peft_config = VeraConfig(
            **common, projection_prng_key=key, save_projection=name == "vera_saved"
        )
    else:
        stabilized = attach.get("rank_stabilized", False)
        peft_config = LoraConfig(
            **common,
            lora_alpha=attach["alpha"],
            use_rslora=stabilized,
            use_dora=method == "dora",
        )
    model = get_peft_model(model, peft_config, autocast_adapter_dtype=False).double()
    rng = np.random.RandomState(1)
    new = [p for p in model.parameters() if p.requires_grad]
    if name == "vera_saved":  # others than the key draws: only the file can know them
        new += [model.base_model.vera_A["default"], model.base_model.vera_B["default"]]
    with torch.no_grad():
        for p in new:
            drawn = torch.tensor((0.3 * rng.standard_normal(tuple(p.shape))).astype(np.float32))
            is_magnitude = method == "dora" and p.ndim == 1  # it stays near the norm of a row of W
            p.copy_((p + drawn).float() if is_magnitude else drawn)
    return model


def stepper(model, method, attach, train):
    """step(n): the optimizer's step, n from 1, after backward."""
    lr, decay = train["lr"], train.get("weight_decay", 0.0)
    if method == "lora_fa":
        correct = corrected_gradients(model, attach)  # freezes every A, too
    trained = [p for p in model.parameters() if p.requires_grad]
    if method == "lora_plus":
        adam = create_loraplus_optimizer(
            model,
            torch.optim.AdamW,
            lr=lr,
            loraplus_lr_ratio=attach["ratio"],
            loraplus_weight_decay=decay,
        )
    else:
        adam = torch.optim.AdamW(trained, lr=lr, weight_decay=decay)

    def step(n):
        if attach.get("corrected"):
            correct()
        adam.step()

    return delta_lora_step(model, attach, step) if method == "delta_lora" else step


def corrected_gradients(model, attach):
    """A function that replaces each B's gradient by the one that PEFT's LoRA-FA optimizer makes.

    With betas of 0 its first moment is that gradient, and with a rate of 0 it moves nothing; its
    own AdamW differs from torch's. Its bfloat16 autocast is off.
    """
    optimizer = create_lorafa_optimizer(model, r=attach["rank"], lora_alpha=attach["alpha"], lr=0.0)
    optimizer.param_groups[0]["betas"] = (0.0, 0.0)

    def correct():
        with mock.patch.object(lorafa, "is_bf16_available", lambda: False):
            optimizer.step()
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.grad = optimizer.state[name.split("lora_B")[0] + "lora"]["exp_avg_B"].clone()

    return correct


def delta_lora_step(model, attach, step):
    """Algorithm 1 of Delta-LoRA (arXiv:2309.02411) around an AdamW step of A and B.

    W ← W + λ (α/r) (B'A' - B A), after the step and with its decay in it, from step start_step + 1.
    """
    layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
    factor = attach["update_ratio"] * attach["alpha"] / attach["rank"]

    def products():
        return [m.lora_B["default"].weight @ m.lora_A["default"].weight for m in layers]

    @torch.no_grad()
    def with_weights(n):
        before = products()
        step(n)
        if n > attach.get("start_step", 0):
            for layer, old, new in zip(layers, before, products()):
                layer.base_layer.weight += factor * (new - old)

    return with_weights


def state(model):
    """Every array of the adapter under its name on disk."""
    return {k: a.detach().numpy().copy() for k, a in get_peft_model_state_dict(model).items()}


def end(model, method):
    """What moved: trained arrays, and Delta-LoRA's weights."""
    if method == "full":
        return {k: p.detach().numpy() for k, p in model.named_parameters()}
    frozen = ("vera_A", "vera_B", "lora_A") if method == "lora_fa" else ("vera_A", "vera_B")
    moved = {k: a for k, a in state(model).items() if not any(f in k for f in frozen)}
    if method == "delta_lora":
        weights = {k: p for k, p in model.named_parameters() if ".base_layer." in k}
        moved |= {k: p.detach().numpy() for k, p in weights.items()}
    return moved


@contextlib.contextmanager
def in_float64():
    """transformers' RMSNorm and rotation without their detour through float32."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.variance_epsilon)

    def rotation(self, x, position_ids):
        D = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
        wavelength = 10000.0 ** (torch.arange(0, D, 2, dtype=torch.float64) / D)
        angle = position_ids[..., None] / wavelength
        both = torch.cat([angle, angle], dim=-1)
        return both.cos(), both.sin()

    with (
        mock.patch.object(LlamaRMSNorm, "forward", norm),
        mock.patch.object(LlamaRotaryEmbedding, "forward", rotation),
    ):
        yield


def main():
    """Write base.safetensors and a file a case."""
    save_file(make_base(), HERE / "base.safetensors", {"config": json.dumps(SHAPE)})
    for name in CASES:
        arrays, about = make_case(name)
        save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, path_of(name), about)
        losses = load_file(path_of(name))["losses"]
        print(f"{name:22} loss {losses[0]:.6f} -> {losses[-1]:.6f}")


def path_of(name):
    """The file of a case."""
    return HERE / f"{name}.safetensors"


if __name__ == "__main__":
    main()
