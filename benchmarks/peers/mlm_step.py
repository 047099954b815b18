"""A masked-LM training step of Hugging Face's RoFormer: their model, their loss, AdamW, dropout as their config has it.

    python -m benchmarks.peers.mlm_step flax|torch ROWS LENGTH LAYERS float32|bfloat16

Flax computes in the dtype given, PyTorch under autocast to it; parameters are float32. A request is a number of steps,
the answer their seconds.
"""

import sys
import time

import numpy as np

from benchmarks.peers.process import answer, versions

VOCABULARY, MASKED = 30522, 0.15


def make_batch(rows: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, attention mask and labels, -100 where no token is masked."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, VOCABULARY, (rows, length))
    return ids, np.ones_like(ids), np.where(rng.random(ids.shape) < MASKED, ids, -100)


def config(layers: int):
    """So many layers of the base model; dropout rates are their defaults, 0.1."""
    from transformers import RoFormerConfig

    return RoFormerConfig(
        vocab_size=VOCABULARY, hidden_size=768, embedding_size=768, num_hidden_layers=layers, num_attention_heads=12,
        intermediate_size=3072, max_position_embeddings=512,
    )  # fmt: skip


def flax_step(rows: int, length: int, layers: int, dtype: str):
    """A function that makes one step and waits for it."""
    import jax
    import optax

    model, step = flax_training(layers, dtype, optax.adamw(1e-4))
    batch, key = make_batch(rows, length), jax.random.PRNGKey(0)
    state = [model.params, optax.adamw(1e-4).init(model.params)]
    step = jax.jit(step, donate_argnums=(0, 1))

    def run():
        *state[:], loss = step(*state, *batch, key)
        loss.block_until_ready()

    return run


def flax_training(layers: int, dtype: str, optimizer):
    """The model, and `step(params, opt_state, ids, attention_mask, labels, key) -> (params, opt_state, loss)`."""
    import jax
    import jax.numpy as jnp
    import optax
    from transformers import FlaxRoFormerForMaskedLM

    model = FlaxRoFormerForMaskedLM(config(layers), seed=0, input_shape=(1, 8), dtype=jnp.dtype(dtype))

    def loss(params, ids, attention_mask, labels, key):
        logits = model(ids, attention_mask=attention_mask, params=params, dropout_rng=key, train=True).logits
        masked = labels >= 0
        terms = optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), jnp.where(masked, labels, 0)
        )
        return (terms * masked).sum() / masked.sum()

    def step(params, opt_state, ids, attention_mask, labels, key):
        value, gradients = jax.value_and_grad(loss)(params, ids, attention_mask, labels, key)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    return model, step


def torch_step(rows: int, length: int, layers: int, dtype: str):
    """A function that makes one step."""
    import torch
    from transformers import RoFormerForMaskedLM

    model = RoFormerForMaskedLM(config(layers))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids, attention_mask, labels = map(torch.tensor, make_batch(rows, length))

    def run():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(ids, attention_mask=attention_mask, labels=labels).loss
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    kind, rows, length, layers, dtype = sys.argv[1:]
    run = {"flax": flax_step, "torch": torch_step}[kind](int(rows), int(length), int(layers), dtype)
    for _ in range(2):
        run()

    def seconds(steps: int) -> list[float]:
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return times

    answer(seconds, about=versions("transformers", {"flax": "jax", "torch": "torch"}[kind]))


if __name__ == "__main__":
    main()
