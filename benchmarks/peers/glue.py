"""Fine-tuning Hugging Face's RoFormer on given examples: their model, AdamW, dropout as their config has it.

    python -m benchmarks.peers.glue flax|torch EXAMPLES.json

Examples are taken by 32, what is left over is left out; Flax pads them to 128, PyTorch to the longest of the 32. A
request is answered by the seconds per example of a pass over all of them.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peers.process import answer, versions

EXAMPLES, LENGTH = 32, 128
WARM_UP = 2  # batches
SIZES = dict(
    vocab_size=30522, hidden_size=384, embedding_size=384, num_hidden_layers=6, num_attention_heads=12,
    intermediate_size=1536, max_position_embeddings=512, num_labels=2,
)  # fmt: skip

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def make_batches(examples: list[dict], length: int | None) -> list[Batch]:
    """Ids, attention mask, token types [32, length] and labels."""
    groups = [examples[stop - EXAMPLES : stop] for stop in range(EXAMPLES, len(examples) + 1, EXAMPLES)]
    return [pad(group, length or max(len(example["ids"]) for example in group)) for group in groups]


def pad(examples: list[dict], length: int) -> Batch:
    """Examples as arrays of one length."""
    ids, mask, types = (np.zeros((EXAMPLES, length), np.int64) for _ in range(3))
    for row, example in enumerate(examples):
        size = len(example["ids"])
        ids[row, :size], mask[row, :size], types[row, :size] = example["ids"], 1, example["token_type_ids"]
    return ids, mask, types, np.array([example["label"] for example in examples])


def flax_step():
    """A function of a batch that makes one step and waits for it."""
    import jax
    import optax
    from transformers import FlaxRoFormerForSequenceClassification, RoFormerConfig

    model = FlaxRoFormerForSequenceClassification(RoFormerConfig(**SIZES), seed=0, input_shape=(1, 8))
    optimizer = optax.adamw(1e-4)
    state, key = [model.params, optimizer.init(model.params)], jax.random.PRNGKey(0)

    def loss(params, ids, mask, types, labels, key):
        outputs = model(ids, attention_mask=mask, token_type_ids=types, params=params, dropout_rng=key, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean()

    def step(params, opt_state, *batch):
        value, gradients = jax.value_and_grad(loss)(params, *batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    step = jax.jit(step, donate_argnums=(0, 1))

    def run(batch: Batch) -> None:
        *state[:], value = step(*state, *batch, key)
        value.block_until_ready()

    return run


def torch_step():
    """A function of a batch that makes one step."""
    import torch
    from transformers import RoFormerConfig, RoFormerForSequenceClassification

    model = RoFormerForSequenceClassification(RoFormerConfig(**SIZES))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run(batch: Batch) -> None:
        ids, mask, types, labels = map(torch.tensor, batch)
        optimizer.zero_grad()
        model(ids, attention_mask=mask, token_type_ids=types, labels=labels).loss.backward()
        optimizer.step()

    return run


def main() -> None:
    kind, file = sys.argv[1:]
    batches = make_batches(json.loads(Path(file).read_text()), LENGTH if kind == "flax" else None)
    run = {"flax": flax_step, "torch": torch_step}[kind]()
    for batch in batches[:WARM_UP]:
        run(batch)

    def seconds_per_example(_: object) -> float:
        start = time.perf_counter()
        for batch in batches:
            run(batch)
        return (time.perf_counter() - start) / (EXAMPLES * len(batches))

    answer(seconds_per_example, about=versions("transformers", {"flax": "jax", "torch": "torch"}[kind]))


if __name__ == "__main__":
    main()
