"""Softmax attention equals equation 2, row by row, and never looks where it must not."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from roformer_jax import rope
from roformer_jax.attention import dot_product_attention

EPS = float(np.finfo(np.float32).eps)
BATCH, LENGTH, HEADS, HEAD_DIM = 8, 7, 4, 8
SEGMENT_IDS = np.array([[1, 1, 1, 2, 2, 3, 0], [0, 0, 4, 4, 4, 4, 4], [1] * 7, [0] * 7] * 2, np.int32)

attend = jax.jit(dot_product_attention, static_argnames=("causal", "dropout_rate"))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def queries_keys_values(kv_heads=HEADS, key_length=LENGTH):
    kv_shape = (BATCH, key_length, kv_heads, HEAD_DIM)
    return normal(0, BATCH, LENGTH, HEADS, HEAD_DIM), normal(1, *kv_shape), normal(2, *kv_shape)


def brute_force(q, k, v, *, segment_ids=None, causal=False, bias=None):
    """Equation 2 in float64, one query at a time, over the keys that it may see."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, m, h in np.ndindex(q.shape[:3]):
        keys = np.arange(k.shape[1])
        if segment_ids is not None:
            keys = keys[(segment_ids[b] == segment_ids[b, m]) & (segment_ids[b] != 0)]
        if causal:
            keys = keys[keys <= m]
        kv = h * k.shape[2] // q.shape[2]
        logits = k[b, keys, kv] @ q[b, m, h] / np.sqrt(q.shape[3])
        if bias is not None:
            logits = logits + np.broadcast_to(bias, (*bias.shape[:2], q.shape[1], k.shape[1]))[0, h, m, keys]
        weights = np.exp(logits)
        out[b, m, h] = weights @ v[b, keys, kv] / max(weights.sum(), np.finfo(float).tiny)
    return out


def tolerance(q, k, v):
    """A logit of HEAD_DIM products and a bias moves its probability by twice its error; then a sum over the keys."""
    norms = [float(np.linalg.norm(x, axis=-1).max()) for x in (q, k)]
    logit = norms[0] * norms[1] / np.sqrt(HEAD_DIM) + 5
    return (2 * HEAD_DIM * logit + 2 * k.shape[1]) * EPS * float(np.abs(v).max())


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("segment_ids", [None, SEGMENT_IDS], ids=["dense", "packed"])
def test_attention_is_equation_2_over_the_visible_keys(kv_heads, causal, segment_ids):
    q, k, v = queries_keys_values(kv_heads)
    out = attend(q, k, v, causal=causal, segment_ids=None if segment_ids is None else jnp.asarray(segment_ids))
    expected = brute_force(q, k, v, causal=causal, segment_ids=segment_ids)
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance(q, k, v))


def test_cross_attention_takes_keys_of_another_length_and_a_bias():
    q, k, v = queries_keys_values(key_length=5)
    bias = normal(3, 1, HEADS, 1, 5)
    expected = brute_force(q, k, v, bias=np.asarray(bias))
    np.testing.assert_allclose(attend(q, k, v, bias=bias), expected, rtol=0, atol=tolerance(q, k, v))


def test_a_bias_cannot_lift_the_mask():
    q, k, v = queries_keys_values()
    huge = jnp.full((1, 1, LENGTH, LENGTH), 1e30)
    chex.assert_trees_all_close(attend(q, k, v, bias=huge, causal=True)[:, 0], v[:, 0], rtol=EPS)


def test_queries_that_continue_a_cache_see_the_keys_up_to_their_own():
    """The last queries of each row, at places of their own, get what they get in causal self-attention."""
    q, k, v = queries_keys_values()
    starts = np.arange(BATCH) % (LENGTH - 2)
    positions = (starts[:, None] + np.arange(3)).astype(np.int32)
    own = jnp.asarray(np.stack([row[at] for row, at in zip(np.asarray(q), positions, strict=True)]))
    found = attend(own, k, v, causal=True, query_positions=jnp.asarray(positions))
    expected = brute_force(q, k, v, causal=True)
    expected = np.stack([row[at] for row, at in zip(expected, positions, strict=True)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(q, k, v))


@pytest.mark.parametrize("segment_ids", [None, SEGMENT_IDS], ids=["dense", "packed"])
def test_relative_values_are_added_to_the_values_of_keys_at_their_distance(segment_ids):
    """With a value of each distance all values differ from query to query: one query at a time, as a sum by hand."""
    q, k, v = queries_keys_values(kv_heads=2)
    table = normal(4, 5, HEAD_DIM)  # of the distances -2, .., 2
    segments = None if segment_ids is None else jnp.asarray(segment_ids)
    found = attend(q, k, v, relative_values=table, segment_ids=segments)
    expected = np.zeros(q.shape)
    for m in range(LENGTH):
        distances = np.clip(np.arange(LENGTH) - m, -2, 2) + 2
        moved = np.asarray(v, np.float64) + np.asarray(table, np.float64)[distances][None, :, None]
        expected[:, m] = brute_force(q, k, moved, segment_ids=segment_ids)[:, m]
    atol = tolerance(q, k, jnp.abs(v).max() + jnp.abs(table).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_packed_documents_attend_as_they_do_alone():
    q, k, v = queries_keys_values()
    segment_ids = jnp.asarray(SEGMENT_IDS)
    freqs = rope.frequencies(HEAD_DIM)
    tables = rope.rotation(rope.packed_positions(segment_ids), freqs)
    packed = attend(*rope.rotate_qk(q, k, tables, layout="interleaved"), v, segment_ids=segment_ids)
    for document in (slice(0, 3), slice(3, 5), slice(5, 6)):
        alone = [array[:1, document] for array in (q, k, v)]
        tables = rope.rotation(jnp.arange(alone[0].shape[1]), freqs)
        alone[:2] = rope.rotate_qk(*alone[:2], tables, layout="interleaved")
        np.testing.assert_allclose(packed[:1, document], attend(*alone), rtol=0, atol=2 * tolerance(q, k, v))


@pytest.mark.parametrize("causal", [False, True])
def test_padding_rows_are_exactly_zero_with_finite_gradients(causal):
    segment_ids = jnp.asarray(SEGMENT_IDS)
    padding = SEGMENT_IDS == 0

    @jax.jit
    def value_and_gradients(q, k, v):
        out, pullback = jax.vjp(partial(dot_product_attention, segment_ids=segment_ids, causal=causal), q, k, v)
        return out, pullback(jnp.ones_like(out))

    out, gradients = value_and_gradients(*queries_keys_values())
    assert not np.asarray(out)[padding].any()
    chex.assert_tree_all_finite(gradients)
    for gradient in gradients:
        assert not np.asarray(gradient)[padding].any()


def test_padding_never_reaches_a_document():
    q, k, v = queries_keys_values()
    padding = (SEGMENT_IDS == 0)[..., None, None]
    spoiled = [jnp.where(padding, 1e6, array) for array in (q, k, v)]
    segment_ids = jnp.asarray(SEGMENT_IDS)
    chex.assert_trees_all_equal(attend(*spoiled, segment_ids=segment_ids), attend(q, k, v, segment_ids=segment_ids))


def test_bfloat16_stays_bfloat16_with_float32_softmax():
    q, k, v = (x.astype(jnp.bfloat16) for x in queries_keys_values())
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    expected = brute_force(q, k, v)
    wide = [np.asarray(x, np.float32) for x in (q, k, v)]
    rounding = float(jnp.finfo(jnp.bfloat16).eps) / 2 * float(np.abs(wide[2]).max())  # of the probabilities; of the sum
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=0, atol=2 * rounding + tolerance(*wide))
    gradients = jax.jit(jax.grad(lambda *qkv: attend(*qkv).astype(jnp.float32).sum(), argnums=(0, 1, 2)))(q, k, v)
    chex.assert_type(gradients, jnp.bfloat16)
    chex.assert_tree_all_finite(gradients)


def dropped_probabilities(rate, key):
    """With zero queries and one-hot values, the output is the matrix of probabilities, 1/64 each before the dropout."""
    q, v = jnp.zeros((2, 64, 2, 64)), jnp.broadcast_to(jnp.eye(64)[None, :, None], (2, 64, 2, 64))
    return np.asarray(attend(q, q, v, dropout_rate=rate, dropout_key=key)).ravel()


def test_dropout_zeroes_its_share_and_scales_the_rest():
    rate = 0.25
    probabilities = dropped_probabilities(rate, jax.random.key(0))
    deviation = np.sqrt(rate * (1 - rate) / probabilities.size)
    assert abs((probabilities == 0).mean() - rate) < 5 * deviation
    np.testing.assert_allclose(probabilities[probabilities != 0], 1 / 64 / (1 - rate), rtol=4 * EPS)


def test_dropout_is_decided_by_its_key_alone():
    first, again, other = (dropped_probabilities(0.3, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_nothing_is_dropped_without_a_key():
    np.testing.assert_allclose(dropped_probabilities(0.3, None), 1 / 64, rtol=2 * EPS)


@pytest.mark.parametrize(
    ("axes", "spec"), [((8, 1), PartitionSpec("data")), ((4, 2), PartitionSpec("data", None, "tensor"))]
)
def test_an_explicit_mesh_changes_no_number_and_keeps_the_sharding(axes, spec):
    @jax.jit
    def value_and_gradients(q, k, v, segment_ids, key):
        attention = partial(dot_product_attention, segment_ids=segment_ids, dropout_rate=0.2, dropout_key=key)
        out, pullback = jax.vjp(attention, q, k, v)
        return out, pullback(out)

    q, k, v = queries_keys_values(kv_heads=2)
    key = jax.random.key(0)
    expected = value_and_gradients(q, k, v, jnp.asarray(SEGMENT_IDS), key)
    with jax.set_mesh(jax.make_mesh(axes, ("data", "tensor"), axis_types=(AxisType.Explicit,) * 2)):
        on_mesh = jax.device_put((q, k, v, jnp.asarray(SEGMENT_IDS)), (spec, spec, spec, PartitionSpec("data")))
        actual = value_and_gradients(*on_mesh, key)
        for leaf, like in zip(jax.tree.leaves(actual), (on_mesh[0], *on_mesh[:3]), strict=True):
            assert jax.typeof(leaf).sharding == jax.typeof(like).sharding
    # The same sums in another order; a gradient sums over the LENGTH queries of HEADS / 2 heads, scaled by the dropout.
    atol = LENGTH * HEADS * tolerance(q, k, v)
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_one_row_keeps_its_sharding(kv_heads):
    """As when a single text is predicted: every reshape of a batch of one must say which axis stays."""
    q, k, v = (array[:1] for array in queries_keys_values(kv_heads))
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1])):
        on_mesh = jax.device_put((q, k, v), PartitionSpec("data"))
        out = jax.eval_shape(dot_product_attention, *on_mesh)
        assert out.sharding == jax.typeof(on_mesh[0]).sharding


@pytest.mark.parametrize(
    ("sizes", "arguments", "message"),
    [
        ({"kv_heads": 3}, {}, "4 query heads cannot share 3 key-value heads"),
        ({"key_length": 5}, {"causal": True}, "self-attention, but there are 7 queries and 5 keys"),
        ({"key_length": 5}, {"segment_ids": jnp.asarray(SEGMENT_IDS)}, "there are 7 queries and 5 keys"),
        (
            {},
            {"segment_ids": jnp.asarray(SEGMENT_IDS), "query_positions": jnp.zeros((1, LENGTH), jnp.int32)},
            "segment_ids are for self-attention, query_positions for queries that continue a text",
        ),
        ({}, {"dropout_rate": 1.0}, "dropout_rate must be at least 0 and below 1, got 1.0"),
        ({}, {"dropout_rate": -0.1}, "dropout_rate must be at least 0 and below 1, got -0.1"),
    ],
)
def test_what_cannot_be_attended_is_refused(sizes, arguments, message):
    with pytest.raises(ValueError, match=message):
        dot_product_attention(*queries_keys_values(**sizes), **arguments)
