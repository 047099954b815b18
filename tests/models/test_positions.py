"""Every encoding of the model is the formula of its paper, in float64 and by itself."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from roformer_jax.models import RoFormerConfig
from roformer_jax.models.attention import SoftmaxAttention
from roformer_jax.models.positions import Shared, encoding_of

EPS = float(jnp.finfo(jnp.float32).eps)
HEADS, HEAD_SIZE, LENGTH, REACH = 3, 8, 9, 2
WIDTH = HEADS * HEAD_SIZE
SIZES = dict(
    vocab_size=11, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, intermediate_size=8,
    max_position_embeddings=LENGTH, relative_distance=REACH, attention_probs_dropout_prob=0.0, initializer_range=0.5,
)  # fmt: skip
FREQS = 10_000.0 ** (-2 * np.arange(HEAD_SIZE // 2) / HEAD_SIZE)
INDEX = np.arange(LENGTH, dtype=np.int32)[None]
RELATIVE = INDEX - INDEX.T  # n - m


def encoding(name, **fields):
    config = RoFormerConfig(**SIZES, position_encoding=name, **fields)
    return encoding_of(config)(config, rngs=nnx.Rngs(0))


def shared(own, causal):
    index = jnp.asarray(INDEX)
    return own.shared(index, index, LENGTH, causal=causal)


def yarn_frequencies(factor, length):
    """YaRN, equations 19 to 23 with whole pairs as ends of the ramp, written out from the paper's code."""
    ends = [HEAD_SIZE * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(10_000)) for turns in (32, 1)]
    low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), HEAD_SIZE - 1)
    ramp = np.clip((np.arange(HEAD_SIZE // 2) - low) / (high - low), 0, 1)
    return FREQS / factor * ramp + FREQS * (1 - ramp)


@pytest.mark.parametrize(
    ("scaling", "freqs", "gain"),
    [
        ({}, FREQS, 1.0),
        ({"rope_theta": 100.0}, FREQS**0.5, 1.0),
        ({"rope_scaling": "linear", "rope_scaling_factor": 4.0}, FREQS / 4, 1.0),
        (
            {"rope_scaling": "ntk", "rope_scaling_factor": 4.0},
            (10_000 * 4.0 ** (HEAD_SIZE / (HEAD_SIZE - 2))) ** (-2 * np.arange(HEAD_SIZE // 2) / HEAD_SIZE),
            1.0,
        ),
        (
            {"rope_scaling": "yarn", "rope_scaling_factor": 4.0, "rope_original_length": 64},
            yarn_frequencies(4.0, 64),
            0.1 * math.log(4) + 1,
        ),
    ],
    ids=["plain", "theta", "linear", "ntk", "yarn"],
)
def test_rope_rotates_by_position_times_frequency(scaling, freqs, gain):
    found = shared(encoding("rope", **scaling), causal=False).rotation
    angles = INDEX[..., None] * freqs
    atol = gain * (2 * np.pi * LENGTH * 2.0**-33 + (np.pi + 2) * EPS)  # `rotation`'s promise, and the rounding
    np.testing.assert_allclose(found.cos, gain * np.cos(angles), rtol=0, atol=atol)
    np.testing.assert_allclose(found.sin, gain * np.sin(angles), rtol=0, atol=atol)


def test_learned_positions_are_rows_of_a_table_and_nan_beyond_it():
    own = encoding("learned")
    table = np.asarray(own.embedding[...])
    np.testing.assert_array_equal(own.added(jnp.asarray([[3, 0, 8]]))[0], table[[3, 0, 8]])
    assert np.isnan(own.added(jnp.asarray([[LENGTH]]))).all()


@pytest.mark.parametrize("name", ["rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none"])
def test_an_encoding_acts_in_one_place(name):
    own = encoding(name)
    made = shared(own, causal=False)
    attention = SoftmaxAttention(own.config, causal=False, rngs=nnx.Rngs(0))
    acts = {
        "input": own.added(jnp.asarray(INDEX)) is not None,
        "rotation": made.rotation is not None,
        "bias": made.bias is not None,
        "layer": attention.relative is not None,
    }
    places = {"rope": "rotation", "learned": "input", "sinusoidal": "input", "alibi": "bias", "t5": "bias"}
    expected = places | {"shaw": "layer", "none": None}
    assert [place for place, does in acts.items() if does] == [place for place in [expected[name]] if place]


@pytest.mark.parametrize("causal", [False, True])
def test_t5_adds_the_number_of_a_bucket_and_head(causal):
    own = encoding("t5")
    table = np.asarray(own.embedding[...])
    assert table.shape == (32, HEADS)
    bias = shared(own, causal).bias
    half = 0 if causal else 16
    for (m, n), distance in np.ndenumerate(RELATIVE):  # all below 8, the first that shares a bucket, or 8 itself
        bucket = max(-distance, 0) if causal else abs(distance) + half * (distance > 0)
        np.testing.assert_array_equal(bias[0, :, m, n], table[bucket])


def brute_force(attention, x, *, causal, slopes=None):
    """One query and head at a time in float64, with Shaw's equations 3 and 4 or the slopes of ALiBi; and its tolerance.

    A logit of M + D products moves a probability by twice its error; the output map adds what that does to the values.
    """
    kernel = np.asarray(attention.query_key_value.kernel[...], np.float64)
    q, k, v = np.moveaxis(np.einsum("blm,mihd->blihd", x.astype(np.float64), kernel), 2, 0)
    mixed, largest = np.zeros_like(q), 0.0
    relative = attention.relative
    zeros = np.zeros((2 * REACH + 1, HEAD_SIZE))
    to_keys, to_values = (
        zeros if relative is None else np.asarray(part(relative).embedding[...], np.float64)
        for part in (lambda vectors: vectors.keys, lambda vectors: vectors.values)
    )
    for b, m, h in np.ndindex(q.shape[:3]):
        keys = np.arange(m + 1 if causal else LENGTH)
        row = np.clip(keys - m, -REACH, REACH) + REACH
        logits = np.array([q[b, m, h] @ (k[b, n, h] + to_keys[r]) for n, r in zip(keys, row, strict=True)])
        logits /= math.sqrt(HEAD_SIZE)
        if slopes is not None:
            logits -= slopes[h] * np.abs(keys - m)
        largest = max(largest, np.abs(logits).max())
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        mixed[b, m, h] = sum(p * (v[b, n, h] + to_values[r]) for p, n, r in zip(weights, keys, row, strict=True))
    output = np.asarray(attention.output.kernel[...], np.float64)
    values = np.abs(v).max() + np.abs(to_values).max()
    atol = 2 * (WIDTH + HEAD_SIZE) * EPS * largest * values * np.abs(output).sum(axis=(0, 1)).max()
    return np.einsum("blhd,hdm->blm", mixed, output), atol


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("name", "slopes"), [("shaw", None), ("alibi", (2**-4, 2**-8, 2**-2)), ("none", None)])
def test_attention_with_relative_positions_is_the_formula_of_the_paper(name, slopes, causal):
    own = encoding(name)
    attention = SoftmaxAttention(own.config, causal=causal, rngs=nnx.Rngs(1))
    x = np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
    made: Shared = shared(own, causal)
    found = jax.jit(lambda x: attention(x, jnp.ones(x.shape[:2], jnp.int32), made, None, None))(jnp.asarray(x))
    expected, atol = brute_force(attention, x, causal=causal, slopes=slopes)
    assert atol < 0.01 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
