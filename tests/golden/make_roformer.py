"""Golden logits of Hugging Face's PyTorch RoFormer: seeded random weights, several lengths, padding, two segments.

    pip install "torch==2.13.0" "transformers==5.23.0"      # an environment of its own: `make test-peers` makes one
    python tests/golden/make_roformer.py                    # writes tests/golden/roformer.npz

The file holds the state dict of each model (keys `masked_lm/...`, `classifier/...`), inputs, and the logits of every
real token or example. Nothing of roformer_jax is imported here. Other sizes, lengths and seeds can be asked for.
"""

import argparse
import json
from collections.abc import Sequence
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
SEEDS = (2104, 9864)


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """The model with every parameter random, biases and norms too, so that none can be swapped or dropped unseen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def inputs(rng: np.random.Generator, vocab_size: int, lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """A padded batch: one row per length, token types 1 in the second half of each row."""
    places, ends = np.arange(max(lengths))[None, :], np.array(lengths)[:, None]
    ids = rng.integers(1, vocab_size, (len(lengths), max(lengths)))
    mask = places < ends
    types = (places >= ends // 2) & mask
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


def make(
    sizes: dict[str, int] = SIZES, lengths: Sequence[int] = LENGTHS, seeds: tuple[int, int] = SEEDS
) -> dict[str, np.ndarray]:
    """All arrays of the golden file; the seeds are of the weights and of the inputs."""
    torch.manual_seed(seeds[0])
    batch = inputs(np.random.default_rng(seeds[1]), sizes["vocab_size"], lengths)
    arrays = {f"inputs/{name}": value for name, value in batch.items()}
    config = RoFormerConfig(**sizes)
    models = {"masked_lm": RoFormerForMaskedLM, "classifier": RoFormerForSequenceClassification}
    for kind, constructor in models.items():
        model = perturbed(constructor(config))
        arrays[f"logits/{kind}"] = logits(model, batch)
        arrays |= {f"{kind}/{name}": value.numpy() for name, value in model.state_dict().items()}
    return arrays


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("roformer.npz"), help="file to write")
    parser.add_argument("--sizes", type=json.loads, default=SIZES, help="fields of RoFormerConfig, as JSON")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of each row")
    parser.add_argument("--seeds", type=int, nargs=2, default=SEEDS, help="of the weights, and of the inputs")
    options = parser.parse_args()
    np.savez_compressed(options.output, **make(options.sizes, options.lengths, options.seeds))
    print(f"wrote {options.output} ({options.output.stat().st_size:,} bytes)")
