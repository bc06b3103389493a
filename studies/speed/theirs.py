"""The same training step in PyTorch, with transformers' Llama and PEFT's adapters.

It starts from the same numbers: the weights and the adapter that this package makes.
"""

import tempfile
import time
from typing import Any

import numpy as np
import torch

from minilora.bench.cases import Training
from minilora.bench.turns import Train
from minilora.llama.model import Llama
from minilora.llama.rows import last_targets
from minilora.ops.loss import IGNORED
from minilora.tuning.adapters import Tuned
from minilora.tuning.optim import learning_rate
from minilora.tuning.storage import save_adapter

from .sides import COMPILED, PACKED, PADDED, PADDED_COMPILED, SIDES

ATTENTION = {SIDES[2]: "eager", PACKED: "each_sequence"}  # the others: "sdpa"


def theirs(training: Training, side: str, threads: int) -> Train:
    """Training steps in PyTorch; side: one of torch's in `sides`.

    The batches are converted before the steps, as a loader in another process would do.
    """
    torch.set_num_threads(threads)
    tuned, recipe = training.tuned, dict(training.recipe)
    model = _adapted(_llama(tuned.base, ATTENTION.get(side, "sdpa")), tuned)
    if side == SIDES[3]:
        _through_onednn(model)
    if side in (COMPILED, PADDED_COMPILED):
        torch.compiler.reset()  # it compiles a function only so many times
        model.compile(dynamic=True if side == PADDED_COMPILED else None)
    given = [GIVEN.get(side, _whole)(*batch) for batch in training.batches]
    names = {"betas", "weight_decay"} & recipe.keys()
    about = {"weight_decay": 0.0, **{name: recipe.pop(name) for name in names}}
    clip, trained = recipe.pop("clip", None), [p for p in model.parameters() if p.requires_grad]

    def steps(n, first=0):
        optimizer = torch.optim.AdamW(_groups(model, tuned), fused=True, **about)
        losses, seconds = [], []
        for step in range(n):
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = group["ratio"] * learning_rate(step + 1, steps=n, **recipe)
            loss = model(**given[(first + step) % len(given)]).loss
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(trained, clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            seconds.append(time.perf_counter() - start)
        return losses, seconds

    return steps


def _whole(ids, targets) -> dict[str, Any]:
    """A batch without padding; transformers makes the targets from the tokens."""
    ids = torch.from_numpy(ids)
    return {"input_ids": ids, "labels": ids}


def _padded(ids, targets) -> dict[str, Any]:
    """A batch as a collator makes it: whole sequences, which have one token more than ids.

    transformers shifts the labels itself, so a label is the token at the same place.
    """
    N, T = ids.shape
    labels = np.full((N, T + 1), IGNORED)
    labels[:, 1:] = targets
    tokens = np.where(labels != IGNORED, labels, np.pad(ids, ((0, 0), (0, 1))))
    mask = np.arange(T + 1) <= last_targets(targets)[:, None]
    arrays = {"input_ids": tokens, "attention_mask": mask.astype(int), "labels": labels}
    return {name: torch.from_numpy(a) for name, a in arrays.items()}


def _packed(ids, targets) -> dict[str, Any]:
    """All sequences in one row, without padding; logits only where a target counts."""
    lengths = last_targets(targets)
    kept = np.arange(ids.shape[1]) < lengths[:, None]
    counts = targets[kept] != IGNORED
    labels = torch.from_numpy(targets[kept][counts][None])
    return {
        "input_ids": torch.from_numpy(ids[kept][None]),
        "position_ids": torch.from_numpy(np.nonzero(kept)[1][None]),
        "logits_to_keep": torch.from_numpy(np.flatnonzero(counts)),
        "labels": labels,
        "shift_labels": labels,
        "lengths": lengths.tolist(),  # for _each_sequence
    }


GIVEN = {PADDED: _padded, PADDED_COMPILED: _padded, PACKED: _packed}  # the others: _whole


def _each_sequence(module, q, k, v, mask, lengths=(), scaling=None, **_):
    """Causal attention inside each sequence of a row.   q, k, v (1, heads, M, D).

    The block-diagonal mask without its zeros: on processors torch has neither attention over
    sequences of several lengths nor a backward of flex_attention.
    """
    parts = zip(*(x.split(lengths, dim=2) for x in (q, k, v)))
    attention = torch.nn.functional.scaled_dot_product_attention
    done = [attention(*p, is_causal=True, scale=scaling, enable_gqa=True) for p in parts]
    return torch.cat(done, dim=2).transpose(1, 2), None


def _llama(base: Llama, attention: str) -> Any:
    """transformers' model with the weights of base, in float32."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.AttentionInterface.register("each_sequence", _each_sequence)
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


def _groups(model, tuned: Tuned) -> list[dict[str, Any]]:
    """The trained arrays in groups, each with its ratio of the learning rate (LoRA+)."""
    rule = tuned.record.lr_scale
    ratios = rule(tuned.options) if rule else {}
    groups: dict[float, list] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:  # PEFT calls a layer's B lora_B
            mine = [ratio for argument, ratio in ratios.items() if f".lora_{argument}." in name]
            groups.setdefault(mine[0] if mine else 1.0, []).append(weight)
    return [{"params": weights, "ratio": ratio} for ratio, weights in groups.items()]


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
    """NumPy arrays of any shapes as torch's tensors, in the same memory."""
    return [torch.from_numpy(a) for a in arrays]
