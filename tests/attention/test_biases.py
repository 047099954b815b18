"""Relative positions in logits and values are the formulas of their papers."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.attention.biases import (
    T5_BUCKETS,
    alibi_bias,
    alibi_slopes,
    at_distances,
    shaw_logits,
    shaw_values,
    sum_by_distance,
    t5_buckets,
)

EPS = float(np.finfo(np.float32).eps)
BATCH, HEADS, LENGTH, KEYS, WIDTH, REACH = 2, 3, 5, 9, 8, 2
QUERY_POSITIONS = np.array([[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]], np.int32)  # a text, and one that continues a cache


def index(length):
    return jnp.arange(length, dtype=jnp.int32)[None]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (1, [2**-8]),
        (8, [2**-1, 2**-2, 2**-3, 2**-4, 2**-5, 2**-6, 2**-7, 2**-8]),  # as printed in the paper
        (16, [2 ** (-i / 2) for i in range(1, 17)]),  # "m = 1/2^0.5, 1/2^1, 1/2^1.5, .., 1/2^8"
        (12, [2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),  # as the authors' code gives
        (3, [2**-4, 2**-8, 2**-2]),
    ],
)
def test_alibi_slopes_are_those_of_the_paper_and_its_code(heads, expected):
    np.testing.assert_allclose(alibi_slopes(heads), expected, rtol=4 * np.finfo(np.float64).eps)


def test_alibi_takes_the_slope_off_for_every_token_of_distance():
    bias = alibi_bias(jnp.asarray(QUERY_POSITIONS), index(KEYS), 8)
    for b, h, m, n in np.ndindex(bias.shape):
        assert bias[b, h, m, n] == -(2.0 ** -(h + 1)) * abs(int(QUERY_POSITIONS[b, m]) - n)  # exact: powers of two


def t5_bucket(distance, causal):
    """Mesh TensorFlow's `_relative_position_bucket`, in float64; `distance` is key minus query."""
    buckets, bucket = T5_BUCKETS, 0
    if causal:
        back = max(-distance, 0)
    else:
        buckets //= 2
        bucket += buckets if distance > 0 else 0
        back = abs(distance)
    exact = buckets // 2
    if back < exact:
        return bucket + back
    grown = int(math.log(back / exact) / math.log(128 / exact) * (buckets - exact))
    return bucket + min(exact + grown, buckets - 1)


@pytest.mark.parametrize("causal", [False, True])
def test_t5_buckets_are_those_of_the_authors(causal):
    reach = 300
    found = t5_buckets(jnp.array([[reach]], jnp.int32), index(2 * reach + 1), causal=causal)[0, 0]
    np.testing.assert_array_equal(found, [t5_bucket(n, causal) for n in range(-reach, reach + 1)])


@pytest.mark.parametrize("causal", [False, True])
@given(shift=st.integers(0, 2**20), positions=st.lists(st.integers(0, 400), min_size=3, max_size=3))
@settings(deadline=None, max_examples=20)
def test_biases_depend_on_distances_alone(causal, shift, positions):
    plain, moved = (jnp.asarray([positions], jnp.int32) + offset for offset in (0, shift))
    for bias in (lambda m: alibi_bias(m, m, 2), lambda m: t5_buckets(m, m, causal=causal)):
        chex.assert_trees_all_equal(bias(plain), bias(moved))


def test_alibi_is_symmetric_and_t5_tells_before_from_behind():
    index_1L = index(40)
    alibi = alibi_bias(index_1L, index_1L, 4)
    np.testing.assert_array_equal(alibi, np.swapaxes(alibi, 2, 3))
    buckets = np.asarray(t5_buckets(index_1L, index_1L, causal=False)[0])
    behind, ahead = buckets[np.tril_indices(40, -1)], buckets.T[np.tril_indices(40, -1)]
    np.testing.assert_array_equal(ahead, behind + T5_BUCKETS // 2)


def clipped(query, key):
    return int(np.clip(key - query, -REACH, REACH)) + REACH


def test_shaw_logits_are_equation_4_of_the_paper():
    """e_ij = x_i W^Q (a^K_ij)^T / sqrt(d), the second of its two terms."""
    q, table = normal(0, BATCH, LENGTH, HEADS, WIDTH), normal(1, 2 * REACH + 1, WIDTH)
    found = shaw_logits(jnp.asarray(q), jnp.asarray(table), jnp.asarray(QUERY_POSITIONS), KEYS)
    expected = np.empty((BATCH, HEADS, LENGTH, KEYS))
    for b, h, m, n in np.ndindex(expected.shape):
        vector = table[clipped(QUERY_POSITIONS[b, m], n)].astype(np.float64)
        expected[b, h, m, n] = q[b, m, h].astype(np.float64) @ vector / math.sqrt(WIDTH)
    sizes = float(np.linalg.norm(q, axis=-1).max() * np.linalg.norm(table, axis=-1).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=(WIDTH + 2) * EPS * sizes)


def test_shaw_values_are_equation_3_of_the_paper():
    """z_i = sum_j alpha_ij a^V_ij, the second of its two terms."""
    probs = np.abs(normal(2, BATCH, HEADS, LENGTH, KEYS))
    probs /= probs.sum(axis=-1, keepdims=True)
    table = normal(3, 2 * REACH + 1, WIDTH)
    found = shaw_values(jnp.asarray(probs), jnp.asarray(table), jnp.asarray(QUERY_POSITIONS))
    expected = np.zeros((BATCH, HEADS, LENGTH, WIDTH))
    for b, h, m, n in np.ndindex(probs.shape):
        expected[b, h, m] += probs[b, h, m, n].astype(np.float64) * table[clipped(QUERY_POSITIONS[b, m], n)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=(KEYS + 2 * REACH + 1) * EPS * float(np.abs(table).max()))


@pytest.mark.parametrize("distances", [3, 5, 2 * KEYS + 5])
def test_spreading_and_summing_by_distance_are_transposes_and_each_other_s_gradient(distances):
    """<spread(x), y> = <x, sum(y)>, exactly in integers, whatever the table's size."""
    rng = np.random.default_rng(4)
    x, y = (
        jnp.asarray(rng.integers(-9, 10, (BATCH, HEADS, LENGTH, size)).astype(np.float32)) for size in (distances, KEYS)
    )
    positions = jnp.asarray(QUERY_POSITIONS)
    spread = lambda x: at_distances(x, positions, distances, KEYS)  # noqa: E731
    total = lambda y: sum_by_distance(y, positions, distances, KEYS)  # noqa: E731
    assert jnp.vdot(spread(x), y) == jnp.vdot(x, total(y))
    for function, transpose, array, cotangent in ((spread, total, x, y), (total, spread, y, x)):
        (gradient,) = jax.vjp(function, array)[1](cotangent)
        np.testing.assert_array_equal(gradient, transpose(cotangent))


def test_no_array_holds_a_vector_for_every_pair_of_tokens():
    length, width = 32, 16

    def loss(q, probs, keys_table, values_table):
        positions = index(length)
        logits = shaw_logits(q, keys_table, positions, length)
        return jnp.sum(logits * probs) + jnp.sum(shaw_values(probs, values_table, positions))

    shapes = (2, length, 3, width), (2, 3, length, length), (5, width), (5, width)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2, 3)))(*arrays))
    assert f"{length},{length}" in program
    assert f"{length},{length},{width}" not in program
    assert "scatter" not in program
