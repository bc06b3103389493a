"""The other side: the same step in PyTorch, with transformers' Llama and PEFT's adapters.

It starts from the same numbers: the weights and the adapter that this package makes.
"""

import time
from typing import Any

import numpy as np

from ..llama.model import ModelConfig
from ..tuning.adapters import Tuned
from .cases import Case, Size, batch, make


class Theirs:
    """A technique on a model, and its steps; attention: "sdpa" or "eager"."""

    def __init__(self, size: Size, case: Case, lr: float, attention: str = "sdpa"):
        import torch

        tuned = make(size, case)
        self.model = _adapted(_llama(size.config, tuned.base.params, attention), tuned)
        self.ids = torch.from_numpy(batch(size)[0])
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, tuned, lr), lr=lr, weight_decay=0.0, fused=True
        )

    def steps(self, n: int) -> list[float]:
        """n steps of training -> the loss before each."""
        return [self._step() for _ in range(n)]

    def seconds(self, n: int) -> list[float]:
        """n steps -> the wall time of each, in seconds."""
        taken = []
        for _ in range(n):
            start = time.perf_counter()
            self._step()
            taken.append(time.perf_counter() - start)
        return taken

    def _step(self) -> float:
        loss = self.model(input_ids=self.ids, labels=self.ids).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def _llama(config: ModelConfig, params: dict[str, np.ndarray], attention: str) -> Any:
    """transformers' model with these weights, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {k: v for k, v in vars(config).items() if k != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    settings = LlamaConfig(
        **fields, rope_parameters=rope, attn_implementation=attention, use_cache=False
    )
    model = LlamaForCausalLM(settings).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(params[name]))
    return model.train()


def _adapted(model, tuned: Tuned):
    """The model under PEFT's adapter with the same numbers; as it is where all of it trains."""
    import peft
    import torch

    record = tuned.record
    if record.whole_model:
        return model
    targets = tuned.targets if isinstance(tuned.targets, str) else list(tuned.targets)
    common = {"r": tuned.rank, "target_modules": targets}
    kinds = {"LORA": peft.LoraConfig, "VERA": peft.VeraConfig}
    format = record.peft or tuned.record.peft
    assert format is not None, f"{record.name} is not in PEFT"
    if format.shared:
        config = kinds[format.type](**common, projection_prng_key=0, save_projection=True)
    else:
        config = kinds[format.type](**common, lora_alpha=tuned.alpha, lora_dropout=0.0)
    model = peft.get_peft_model(model, config)
    arrays = {k: torch.from_numpy(np.array(a)) for k, a in tuned.arrays.items()}
    known = set(peft.get_peft_model_state_dict(model))
    peft.set_peft_model_state_dict(model, {k: a for k, a in arrays.items() if k in known})
    frozen = known - set(tuned.trainable)  # LoRA-FA's A
    for name, weight in model.named_parameters():
        if name.replace(".default", "") in frozen:
            weight.requires_grad_(False)
    return model.train()


def _groups(model, tuned: Tuned, lr: float) -> list[dict[str, Any]]:
    """What trains, in groups of one learning rate."""
    rule = tuned.record.lr_scale
    ratios = rule(tuned.options) if rule else {}
    fast = {slot.key: ratios[slot.argument] for slot in tuned.trained() if slot.argument in ratios}
    groups: dict[float, list] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups.setdefault(fast.get(name.replace(".default", ""), 1.0), []).append(weight)
    return [{"params": weights, "lr": lr * ratio} for ratio, weights in groups.items()]


def through_onednn(model) -> None:
    """Send each frozen linear through oneDNN, whose products use AVX-512 on every processor.

    MKL, which torch uses by itself, runs at half speed on processors of AMD.
    """
    import torch

    def product(x, w):
        return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")

    class Frozen(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, turned):
            ctx.turned = turned
            return product(x, w)

        @staticmethod
        def backward(ctx, *grads):
            return product(grads[0].contiguous(), ctx.turned), None, None

    for linear in [m for m in model.modules() if type(m) is torch.nn.Linear]:
        if not linear.weight.requires_grad:
            turned = linear.weight.detach().t().contiguous()
            linear.forward = lambda x, w=linear.weight, t=turned: Frozen.apply(x, w, t)


def tensors(arguments: list[Any]) -> list[Any]:
    """NumPy's arrays as torch's, of the same memory; the rest as it is."""
    import torch

    return [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]
