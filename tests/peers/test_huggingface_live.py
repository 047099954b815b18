"""Live against Hugging Face's PyTorch RoFormer, in an environment of its own: `make test-peers`."""

import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from roformer_jax.models import RoFormerConfig, build_classifier, build_masked_lm
from tests.models.huggingface import params_from_state_dict

PEERS = os.environ.get("PEERS_PYTHON")
SCRIPT = Path(__file__).parents[1] / "golden" / "make_roformer.py"
TOLERANCE = 1e-4
CASES = {
    "wide": (
        {"vocab_size": 97, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 256, "max_position_embeddings": 256, "type_vocab_size": 2, "num_labels": 5},
        (2, 33, 64, 200), (11, 12),
    ),
    "deep": (
        {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 4,
         "intermediate_size": 24, "max_position_embeddings": 64, "type_vocab_size": 2, "num_labels": 2},
        (1, 3, 30, 7, 12), (21, 22),
    ),
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not PEERS, reason="PEERS_PYTHON names no Python with torch and transformers; `make test-peers` sets it"
)


@pytest.fixture(scope="module", params=CASES)
def peer(request, tmp_path_factory):
    """What PyTorch gave: our model's configuration, and all arrays of the script."""
    sizes, lengths, seeds = CASES[request.param]
    path = tmp_path_factory.mktemp("peer") / "roformer.npz"
    command = [PEERS, str(SCRIPT), "--output", str(path), "--sizes", json.dumps(sizes)]
    command += ["--lengths", *map(str, lengths), "--seeds", *map(str, seeds)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = {name: size for name, size in sizes.items() if name not in ("num_labels", "max_position_embeddings")}
    with np.load(path) as file:
        return RoFormerConfig(**ours), dict(file)


@pytest.fixture(scope="module", params=["padded", "packed"])
def batch(request, peer):
    """ids, segments, token types and the start of every example: one to a row, or all in one; and where tokens are."""
    _, arrays = peer
    ids, mask, types = (arrays[f"inputs/{name}"].astype(np.int32) for name in ("ids", "mask", "token_type_ids"))
    real = mask.astype(bool)
    if request.param == "padded":
        return ids, mask, types, np.zeros((len(ids), 1), np.int32), real
    lengths = mask.sum(axis=1)
    segments = np.repeat(np.arange(1, len(ids) + 1, dtype=np.int32), lengths)[None]
    starts = (np.cumsum(lengths) - lengths).astype(np.int32)[None]
    return ids[real][None], segments, types[real][None], starts, np.ones((1, real.sum()), bool)


def weights(peer, kind):
    config, arrays = peer
    state = {name.removeprefix(f"{kind}/"): value for name, value in arrays.items() if name.startswith(f"{kind}/")}
    return params_from_state_dict(state, config.num_attention_heads)


def test_masked_lm_gives_the_logits_of_every_token(peer, batch):
    config, arrays = peer
    ids, segments, types, _, real = batch
    everywhere = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    apply = jax.jit(build_masked_lm(config).apply)
    logits = np.asarray(apply(weights(peer, "masked_lm"), ids, segments, everywhere, types))
    expected = arrays["logits/masked_lm"][arrays["inputs/mask"].astype(bool)]
    assert np.max(np.abs(logits[real] - expected)) < TOLERANCE
    assert np.std(expected) > 0.1, "logits this alike would agree whatever the model"


def test_classifier_gives_the_logits_of_every_example(peer, batch):
    config, arrays = peer
    ids, segments, types, starts, _ = batch
    expected = arrays["logits/classifier"]
    apply = jax.jit(build_classifier(config, expected.shape[1]).apply)
    logits = np.asarray(apply(weights(peer, "classifier"), ids, segments, starts, types)).reshape(expected.shape)
    assert np.max(np.abs(logits - expected)) < TOLERANCE
    assert np.std(expected) > 0.1, "logits this alike would agree whatever the model"
