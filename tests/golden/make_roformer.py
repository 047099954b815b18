"""Golden logits of Hugging Face's PyTorch RoFormer: seeded random weights, several lengths, padding, two segments.

    pip install "torch==2.13.0" "transformers==5.23.0"      # an environment of its own: `make test-peers` makes one
    python tests/golden/make_roformer.py                    # writes tests/golden/roformer.npz

The file holds the state dict of each model (keys `masked_lm/...`, `classifier/...`), inputs, and the logits of every
real token or example. Nothing of roformer_jax is imported here.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import RoFormerConfig, RoFormerForMaskedLM, RoFormerForSequenceClassification

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "num_labels": 3,
}
LENGTHS = (1, 5, 17, 40)


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every parameter random, biases and norms too, so that none can be swapped or dropped unseen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A padded batch: one row per length, token types 1 in the second half of each row."""
    rows, width = len(LENGTHS), max(LENGTHS)
    ids = rng.integers(1, SIZES["vocab_size"], (rows, width))
    mask = np.arange(width)[None, :] < np.array(LENGTHS)[:, None]
    types = (np.arange(width)[None, :] >= np.array(LENGTHS)[:, None] // 2) & mask
    return {"ids": ids * mask, "mask": mask.astype(np.int64), "token_type_ids": types.astype(np.int64)}


def logits(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The model's logits for the padded batch."""
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(batch["ids"]),
            attention_mask=torch.tensor(batch["mask"]),
            token_type_ids=torch.tensor(batch["token_type_ids"]),
        )
    return out.logits.numpy()


def make() -> dict[str, np.ndarray]:
    """All arrays of the golden file."""
    torch.manual_seed(2104)
    batch = inputs(np.random.default_rng(9864))
    arrays = {f"inputs/{name}": value for name, value in batch.items()}
    config = RoFormerConfig(**SIZES)
    models = {"masked_lm": RoFormerForMaskedLM, "classifier": RoFormerForSequenceClassification}
    for kind, constructor in models.items():
        model = perturbed(constructor(config))
        arrays[f"logits/{kind}"] = logits(model, batch)
        arrays |= {f"{kind}/{name}": value.numpy() for name, value in model.state_dict().items()}
    return arrays


if __name__ == "__main__":
    target = Path(__file__).with_name("roformer.npz")
    np.savez_compressed(target, **make())
    print(f"wrote {target} ({target.stat().st_size:,} bytes)")
