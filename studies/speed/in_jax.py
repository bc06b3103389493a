"""The same training step in JAX: a Llama, LoRA and AdamW in jax.numpy, one function under jax.jit.

It starts from the same numbers: the weights and the adapter that this package makes.
"""

import os
import time

import numpy as np

from minilora.bench.cases import Training
from minilora.bench.turns import Train
from minilora.llama.model import EMBED, HEAD, NORM
from minilora.ops.loss import IGNORED
from minilora.tuning.adapters import Tuned


def theirs(training: Training, side: str, threads: int) -> Train:
    """Training steps in JAX, of LoRA or of full fine-tuning, at a constant rate.

    Raises ValueError for another recipe, or where JAX's threads cannot be limited;
    ModuleNotFoundError where JAX is not installed.
    """
    tuned = training.tuned
    if set(training.recipe) != {"lr"}:
        raise ValueError("JAX's step has a constant rate, no clipping and no decay")
    if threads < (cores := os.cpu_count() or 1):  # JAX starts a thread for each core it may use
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError(f"this system cannot limit JAX to {threads} of {cores} cores")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import jax
    import jax.numpy as jnp

    trained = {name: jnp.array(a) for name, a in tuned.trainable.items()}
    frozen = {k: jnp.array(a) for k, a in tuned.base.params.items() if k not in trained}
    batches = [(jnp.array(ids), jnp.array(targets)) for ids, targets in training.batches]
    gradients = jax.value_and_grad(_loss_of(tuned))

    def step(state, frozen, ids, targets, n):
        trained, m, v = state
        loss, grads = gradients(trained, frozen, ids, targets)
        m = {k: 0.9 * m[k] + 0.1 * g for k, g in grads.items()}
        v = {k: 0.999 * v[k] + 0.001 * g * g for k, g in grads.items()}
        rate, root = training.recipe["lr"] / (1 - 0.9**n), jnp.sqrt(1 - 0.999**n)
        moved = {k: p - rate * m[k] / (jnp.sqrt(v[k]) / root + 1e-8) for k, p in trained.items()}
        return (moved, m, v), loss

    step = jax.jit(step, donate_argnums=0)

    def steps(n, first=0):
        nonlocal trained
        state = (trained, *({k: jnp.zeros_like(p) for k, p in trained.items()} for _ in "mv"))
        losses, seconds = [], []
        for k in range(n):
            batch = batches[(first + k) % len(batches)]
            start = time.perf_counter()
            state, loss = jax.block_until_ready(step(state, frozen, *batch, np.float32(k + 1)))
            losses.append(float(loss))
            seconds.append(time.perf_counter() - start)
        trained = state[0]
        return losses, seconds

    return steps


def _loss_of(tuned: Tuned):
    """(trained arrays, frozen arrays, ids (N, T), targets (N, T)) -> mean cross-entropy ()."""
    import jax
    import jax.numpy as jnp

    c = tuned.config
    cos, sin = tuned.base.rope_tables(0, c.max_position_embeddings)

    def loss(trained, frozen, ids, targets):
        weights = {**frozen, **trained}

        def linear(name, x):
            y = x @ weights[f"{name}.weight"].T
            if name in tuned.layers:
                A, B = (trained[tuned.key(name, matrix)] for matrix in "AB")
                y += tuned.layers[name]["s"] * (x @ A.T) @ B.T
            return y

        def norm(name, x):
            mean = jnp.mean(x * x, axis=-1, keepdims=True)
            return x * jax.lax.rsqrt(mean + c.rms_norm_eps) * weights[name]

        def heads(name, x):
            return linear(name, x).reshape(*x.shape[:2], -1, c.head_dim)

        def rotated(x):
            (a, b), T = jnp.split(x, 2, axis=-1), x.shape[1]
            c_, s_ = cos[:T, None], sin[:T, None]
            return jnp.concatenate([a * c_ - b * s_, b * c_ + a * s_], axis=-1)

        x = weights[EMBED][ids]
        for i in range(c.num_hidden_layers):
            layer = f"model.layers.{i}"
            attn, mlp = f"{layer}.self_attn", f"{layer}.mlp"
            h = norm(f"{layer}.input_layernorm.weight", x)
            q, k = (rotated(heads(f"{attn}.{name}_proj", h)) for name in "qk")
            o = jax.nn.dot_product_attention(q, k, heads(f"{attn}.v_proj", h), is_causal=True)
            x += linear(f"{attn}.o_proj", o.reshape(*x.shape[:2], -1))
            h = norm(f"{layer}.post_attention_layernorm.weight", x)
            h = jax.nn.silu(linear(f"{mlp}.gate_proj", h)) * linear(f"{mlp}.up_proj", h)
            x += linear(f"{mlp}.down_proj", h)
        logits = norm(NORM, x) @ weights[EMBED if c.tie_word_embeddings else HEAD].T
        counts = targets != IGNORED
        gold = jnp.take_along_axis(logits, jnp.where(counts, targets, 0)[..., None], axis=-1)
        apart = jax.nn.logsumexp(logits, axis=-1) - gold[..., 0]
        return jnp.sum(apart, where=counts) / jnp.sum(counts)

    return loss
