"""The same weights give the logits of Hugging Face's PyTorch RoFormer: padded, in two segments, at several lengths."""

from pathlib import Path

import jax
import numpy as np
import pytest

from roformer_jax.models import RoFormerConfig, build_classifier, build_masked_lm
from tests.models.huggingface import params_from_state_dict

TOLERANCE = 1e-4  # the promise; float32 rounding through three layers stays an order of magnitude below it
SIZES = dict(
    vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, type_vocab_size=2
)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "roformer.npz") as file:
        return dict(file)


def part(golden, prefix):
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def padded_batch(golden):
    inputs = part(golden, "inputs/")
    return inputs["ids"].astype(np.int32), inputs["mask"].astype(np.int32), inputs["token_type_ids"].astype(np.int32)


def packed_row(golden):
    """All sequences of the padded batch one behind the other in a single row."""
    ids, mask, types = padded_batch(golden)
    real = mask.astype(bool)
    segment_ids = np.repeat(np.arange(1, len(ids) + 1), mask.sum(axis=1))
    return ids[real][None], segment_ids[None].astype(np.int32), types[real][None], real


def masked_lm_logits(golden, ids, segment_ids, types):
    model = build_masked_lm(RoFormerConfig(**SIZES))
    params = params_from_state_dict(part(golden, "masked_lm/"), SIZES["num_attention_heads"])
    everywhere = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    return np.asarray(jax.jit(model.apply)(params, ids, segment_ids, everywhere, types))


def test_masked_lm_logits_of_padded_rows(golden):
    ids, mask, types = padded_batch(golden)
    logits = masked_lm_logits(golden, ids, mask, types)
    real = mask.astype(bool)
    assert np.max(np.abs(logits - golden["logits/masked_lm"])[real]) < TOLERANCE


def test_masked_lm_logits_of_one_packed_row(golden):
    ids, segment_ids, types, real = packed_row(golden)
    logits = masked_lm_logits(golden, ids, segment_ids, types)
    assert np.max(np.abs(logits[0] - golden["logits/masked_lm"][real])) < TOLERANCE


def classifier_logits(golden, ids, segment_ids, starts, types):
    model = build_classifier(RoFormerConfig(**SIZES), 3)
    params = params_from_state_dict(part(golden, "classifier/"), SIZES["num_attention_heads"])
    return np.asarray(jax.jit(model.apply)(params, ids, segment_ids, starts, types))


def test_classifier_logits_of_padded_rows(golden):
    ids, mask, types = padded_batch(golden)
    logits = classifier_logits(golden, ids, mask, np.zeros((len(ids), 1), np.int32), types)
    assert np.max(np.abs(logits[:, 0] - golden["logits/classifier"])) < TOLERANCE


def test_classifier_logits_of_one_packed_row(golden):
    ids, segment_ids, types, real = packed_row(golden)
    lengths = real.sum(axis=1)
    starts = (np.cumsum(lengths) - lengths)[None].astype(np.int32)
    logits = classifier_logits(golden, ids, segment_ids, starts, types)
    assert np.max(np.abs(logits[0] - golden["logits/classifier"])) < TOLERANCE
