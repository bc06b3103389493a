"""The same training step in PyTorch, with transformers' Llama and PEFT's adapters.

It starts from the same numbers: the weights and the adapter that this package makes.
"""

import tempfile
import time
from typing import Any

import numpy as np
import torch

from ..llama.model import Llama
from ..tuning.storage import save_adapter
from .cases import Batch, Tuned
from .turns import SIDES, Train


def theirs(tuned: Tuned, batch: Batch, lr: float, side: str, threads: int) -> Train:
    """Training steps in PyTorch; side: one of torch's in SIDES."""
    torch.set_num_threads(threads)
    model = _adapted(_llama(tuned.base, "eager" if side == SIDES[2] else "sdpa"), tuned)
    if side == SIDES[3]:
        _through_onednn(model)
    ids = torch.from_numpy(batch[0])  # transformers makes the targets of them
    optimizer = torch.optim.AdamW(_groups(model, tuned, lr), lr=lr, weight_decay=0.0, fused=True)

    def steps(n):
        losses, seconds = [], []
        for _ in range(n):
            start = time.perf_counter()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            seconds.append(time.perf_counter() - start)
        return losses, seconds

    return steps


def _llama(base: Llama, attention: str) -> Any:
    """transformers' model with the weights of base, in float32."""
    import transformers

    transformers.logging.set_verbosity_error()
    fields = {k: v for k, v in vars(base.config).items() if k != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": base.config.rope_theta}
    settings = transformers.LlamaConfig(
        **fields, rope_parameters=rope, attn_implementation=attention, use_cache=False
    )
    model = transformers.LlamaForCausalLM(settings).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(base.params[name]))
    return model


def _adapted(model, tuned: Tuned) -> Any:
    """The model under PEFT's adapter with the same numbers; full fine-tuning needs no adapter."""
    if not tuned.record.whole_model:
        import peft

        with tempfile.TemporaryDirectory() as folder:
            save_adapter(tuned, folder)
            model = peft.PeftModel.from_pretrained(model, folder, is_trainable=True)
        frozen = tuned.arrays.keys() - tuned.trainable.keys()  # LoRA-FA's A
        for name, weight in model.named_parameters():
            if name.replace(".default", "") in frozen:
                weight.requires_grad_(False)
    return model.train()


def _groups(model, tuned: Tuned, lr: float) -> list[dict[str, Any]]:
    """What trains, in groups of one learning rate; PEFT calls the argument B of a layer lora_B."""
    rule = tuned.record.lr_scale
    ratios = rule(tuned.options) if rule else {}
    groups: dict[float, list] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            mine = [ratio for argument, ratio in ratios.items() if f".lora_{argument}." in name]
            groups.setdefault(mine[0] if mine else 1.0, []).append(weight)
    return [{"params": weights, "lr": lr * ratio} for ratio, weights in groups.items()]


def _through_onednn(model) -> None:
    """Compute each frozen linear by oneDNN, whose products use AVX-512 on every processor.

    MKL, which torch uses by itself, runs at half speed on processors of AMD.
    """

    def product(x, w):
        return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")

    class Frozen(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w, transposed):
            ctx.transposed = transposed
            return product(x, w)

        @staticmethod
        def backward(ctx, *grads):
            return product(grads[0].contiguous(), ctx.transposed), None, None

    for linear in [m for m in model.modules() if type(m) is torch.nn.Linear]:
        if not linear.weight.requires_grad:
            transposed = linear.weight.detach().t().contiguous()
            linear.forward = lambda x, w=linear.weight, t=transposed: Frozen.apply(x, w, t)


def tensors(arrays: list[np.ndarray]) -> list[Any]:
    """NumPy's arrays as torch's, in the same memory."""
    return [torch.from_numpy(a) for a in arrays]
