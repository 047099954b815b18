"""Linear attention is equations 18 and 19 summed pair by pair."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax import rope
from roformer_jax.attention import linear_attention, linear_attention_step
from tests.attention.linear_reference import (
    EPS,
    HEAD_DIM,
    LENGTH,
    SEGMENT_IDS,
    brute_force,
    normal,
    queries_keys_values,
    weights_of,
)

MAPS = ("elu", "relu", "softmax", "favor")
ROTATES = ("none", "before", "after")

attend = jax.jit(linear_attention, static_argnames=("layout", "feature_map", "rotate", "causal", "chunk"))


@pytest.mark.parametrize("rotate", ROTATES)
@pytest.mark.parametrize("feature_map", MAPS)
def test_attention_is_the_sum_over_visible_pairs(feature_map, rotate):
    q, k, v = queries_keys_values()
    weights = weights_of(feature_map, rotate)
    for causal, segment_ids in ((False, None), (False, SEGMENT_IDS), (True, SEGMENT_IDS)):
        out = attend(q, k, v, **weights, causal=causal, segment_ids=segment_ids, chunk=5)
        expected, rounding = brute_force(q, k, v, **weights, causal=causal, segment_ids=segment_ids)
        np.testing.assert_allclose(out, expected, rtol=0, atol=rounding)
        if feature_map in ("elu", "softmax"):  # others have small denominators, which magnify rounding
            np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_a_key_head_serves_consecutive_query_heads(kv_heads, causal):
    q, k, v = queries_keys_values(kv_heads)
    weights = weights_of("elu", "after")
    expected, rounding = brute_force(q, k, v, **weights, causal=causal)
    np.testing.assert_allclose(attend(q, k, v, **weights, causal=causal), expected, rtol=0, atol=rounding)


def test_cross_attention_takes_keys_of_another_length():
    q, k, v = queries_keys_values(key_length=5)
    weights = weights_of("softmax", "none")
    expected, rounding = brute_force(q, k, v, **weights)
    np.testing.assert_allclose(attend(q, k, v, **weights), expected, rtol=0, atol=rounding)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (15, 1), (15, 4), (15, 5), (15, 64)])
@pytest.mark.parametrize("causal", [False, True])
def test_any_length_and_chunk_give_the_same(length, chunk, causal):
    q, k, v = (x[:, :length] for x in queries_keys_values())
    arguments = weights_of("elu", "after", jnp.arange(length)) | {"causal": causal}
    arguments["segment_ids"] = None if causal else SEGMENT_IDS[:, :length]
    expected, rounding = brute_force(q, k, v, **arguments)
    np.testing.assert_allclose(attend(q, k, v, **arguments, chunk=chunk), expected, rtol=0, atol=rounding)


def test_the_layout_decides_which_channels_turn():
    q, k, v = queries_keys_values()
    weights = weights_of("elu", "after")
    convert = np.arange(HEAD_DIM).reshape(-1, 2).T.ravel()  # channels 0, 2, .., 1, 3, ..: pairs to halves
    halves = attend(q[..., convert], k[..., convert], v, **weights | {"layout": "half"})
    expected, rounding = brute_force(q, k, v, **weights)
    np.testing.assert_allclose(halves, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("rotate", ROTATES)
def test_weights_sum_to_one_unless_the_numerator_alone_is_rotated(rotate):
    q, k, v = queries_keys_values()
    out = np.asarray(attend(q, k, jnp.ones_like(v), **weights_of("elu", rotate), causal=True))
    if rotate == "after":
        np.testing.assert_allclose(out[:, 0], 1, rtol=0, atol=4 * HEAD_DIM * EPS)  # alone, at distance 0
        assert (np.abs(out[:, 1:] - 1) > 0.01).mean() > 0.9
    else:
        np.testing.assert_allclose(out, 1, rtol=0, atol=4 * HEAD_DIM * EPS)


@pytest.mark.parametrize("rotate", ["before", "after"])
def test_only_rotation_after_the_map_makes_attention_relative(rotate):
    q, k, v = queries_keys_values()
    near, far = (
        np.asarray(attend(q, k, v, **weights_of("elu", rotate, jnp.arange(LENGTH) + shift), causal=True))
        for shift in (0, 1 << 20)
    )
    _, rounding = brute_force(q, k, v, **weights_of("elu", rotate), causal=True)
    assert (np.abs(near - far).max() < 2 * rounding) == (rotate == "after")


def quadratic(q, k, v, *, rotation, feature_map, projection, rotate, layout, mask):
    """The same in JAX, for its gradients by plain differentiation; features as in equation 18."""
    if rotation is not None and rotate == "before":
        q, k = rope.rotate_qk(q, k, rotation, layout=layout)
    match feature_map:
        case "elu":
            phi, varphi = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
        case "softmax":
            phi, varphi = jax.nn.softmax(q, -1), jnp.exp(k)
        case "favor":
            phi, varphi = (
                jnp.exp(x / HEAD_DIM**0.25 @ projection.astype(x.dtype).T - (x * x).sum(-1, keepdims=True) / 8**0.5 / 2)
                for x in (q, k)
            )
    below = jnp.einsum("blhf,bshf->bhls", phi, varphi) * mask
    if rotation is None or rotate == "before":
        above = below
    else:
        above = jnp.einsum("blhf,bshf->bhls", *rope.rotate_qk(phi, varphi, rotation, layout=layout)) * mask
    total = below.sum(-1, keepdims=True)
    return jnp.einsum("bhls,bshd->blhd", above / jnp.where(total > 0, total, 1), v)


@pytest.mark.parametrize(
    ("feature_map", "rotate", "causal", "segmented"),
    [
        ("elu", "after", True, True),
        ("elu", "after", False, True),
        ("elu", "before", True, False),
        ("softmax", "after", True, False),
        ("favor", "after", False, True),
        ("favor", "before", False, False),
    ],
)
def test_gradients_are_those_of_the_pairs_and_of_finite_differences(feature_map, rotate, causal, segmented):
    with jax.enable_x64(True):
        q, k, v, g = (x[:4].astype(jnp.float64) for x in (*queries_keys_values(), queries_keys_values()[0][..., :6]))
        ids = SEGMENT_IDS[:4] if segmented else np.ones((4, LENGTH), np.int32)
        mask = (ids[:, :, None] == ids[:, None, :]) & (ids[:, None, :] != 0)
        mask = (mask & np.tri(LENGTH, dtype=bool) if causal else mask)[:, None].astype(np.float64)
        weights = weights_of(feature_map, rotate, jnp.arange(LENGTH, dtype=jnp.int32))
        linear = partial(
            linear_attention, **weights, causal=causal, segment_ids=jnp.asarray(ids) if segmented else None, chunk=5
        )

        def loss(attention, *qkv):
            return jnp.sum(attention(*qkv) * g)

        actual = jax.jit(jax.grad(partial(loss, linear), argnums=(0, 1, 2)))(q, k, v)
        expected = jax.jit(jax.grad(partial(loss, partial(quadratic, **weights, mask=mask)), argnums=(0, 1, 2)))(
            q, k, v
        )
        scale = max(float(jnp.abs(gradient).max()) for gradient in expected)
        chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-12 * scale)  # some 1,000 roundings of 1e-16
        value, h = jax.jit(partial(loss, linear)), 1e-5
        for index, gradient in enumerate(actual):
            direction = normal(7 + index, *gradient.shape).astype(jnp.float64)
            ends = [
                [x + sign * h * direction if i == index else x for i, x in enumerate((q, k, v))] for sign in (1, -1)
            ]
            slope = (value(*ends[0]) - value(*ends[1])) / (2 * h)
            # h^2 times a third derivative, and the rounding of the values over h.
            np.testing.assert_allclose(slope, jnp.sum(gradient * direction), rtol=1e-7, atol=1e-7 * scale)


def test_gradients_have_gradients():
    with jax.enable_x64(True):
        q, k, v = (x[:1, :, :1].astype(jnp.float64) for x in queries_keys_values())
        mask = np.tri(LENGTH)[None, None]
        weights = weights_of("elu", "after", jnp.arange(LENGTH, dtype=jnp.int32))
        forms = partial(linear_attention, **weights, causal=True, chunk=5), partial(quadratic, **weights, mask=mask)
        second = []
        for form in forms:
            squared = jax.grad(lambda q, form=form: jnp.sum(form(q, k, v) ** 2))
            second.append(jax.jit(jax.grad(lambda q, squared=squared: jnp.sum(squared(q) ** 2)))(q))
        np.testing.assert_allclose(*second, rtol=0, atol=1e-11 * float(jnp.abs(second[1]).max()))


@pytest.mark.parametrize("causal", [False, True])
def test_packed_documents_attend_as_they_do_alone(causal):
    q, k, v = queries_keys_values()
    positions = rope.packed_positions(jnp.asarray(SEGMENT_IDS))
    packed = attend(q, k, v, **weights_of("elu", "after", positions), segment_ids=SEGMENT_IDS, causal=causal, chunk=4)
    for document in (slice(0, 5), slice(5, 7), slice(7, 8), slice(8, 14)):
        alone = [x[:1, document] for x in (q, k, v)]
        weights = weights_of("elu", "after", jnp.arange(alone[0].shape[1]))
        expected, rounding = brute_force(*alone, **weights, causal=causal)
        np.testing.assert_allclose(packed[:1, document], expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("feature_map", ["elu", "softmax", "favor"])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_exactly_zero_and_reaches_nobody(feature_map, causal):
    weights = weights_of(feature_map, "after")
    padding, segment_ids = (SEGMENT_IDS == 0)[..., None, None], jnp.asarray(SEGMENT_IDS)

    @jax.jit
    def value_and_gradients(q, k, v):
        attention = partial(linear_attention, **weights, segment_ids=segment_ids, causal=causal, chunk=5)
        out, pullback = jax.vjp(attention, q, k, v)
        return out, *pullback(jnp.ones_like(out))

    arrays = queries_keys_values()
    clean = value_and_gradients(*arrays)
    chex.assert_tree_all_finite(clean)
    for array in clean:
        assert not np.asarray(array)[np.broadcast_to(padding, array.shape)].any()
    spoiled = value_and_gradients(*(jnp.where(padding, 1e6, x) for x in arrays))
    chex.assert_trees_all_equal(spoiled, clean)


def test_no_common_channel_is_exactly_zero_with_finite_gradients():
    q, k, v = queries_keys_values()
    q = -jnp.abs(q)
    for rotate in ROTATES:
        attention = partial(attend, **weights_of("relu", rotate) | {"rotate": "after"}, causal=True)
        out, pullback = jax.vjp(attention, q, k, v)
        assert not np.asarray(out).any()
        chex.assert_tree_all_finite(pullback(jnp.ones_like(out)))


@pytest.mark.parametrize("shift", [-1000.0, -70.0, 0.0, 70.0, 1000.0])
@pytest.mark.parametrize("causal", [False, True])
def test_exponentials_of_any_size_are_safe(shift, causal):
    """A constant in all keys multiplies every exp(k) alike: neither the result nor a gradient may change."""
    q, k, v = queries_keys_values()
    k = jnp.round(k * 64) / 64  # exact after the shift

    @jax.jit
    def value_and_gradients(q, k, v):
        out, pullback = jax.vjp(partial(linear_attention, feature_map="softmax", causal=causal), q, k, v)
        return out, *pullback(jnp.ones_like(out))

    expected = value_and_gradients(q, k, v)
    _, rounding = brute_force(q, k, v, **weights_of("softmax", "none"), causal=causal)
    actual = value_and_gradients(q, k + shift, v)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=LENGTH * rounding)


@pytest.mark.parametrize("rotate", ["before", "after"])
def test_bfloat16_stays_bfloat16_with_float32_sums(rotate):
    q, k, v = (x.astype(jnp.bfloat16) for x in queries_keys_values())
    weights = weights_of("elu", rotate)
    out = attend(q, k, v, **weights, causal=True)
    assert out.dtype == jnp.bfloat16
    expected, rounding = brute_force(*(x.astype(jnp.float32) for x in (q, k, v)), **weights, causal=True)
    half_step = float(jnp.finfo(jnp.bfloat16).eps) / 2
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=half_step, atol=rounding)
    loss = jax.grad(lambda *qkv: attend(*qkv, **weights).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    chex.assert_type(loss(q, k, v), jnp.bfloat16)


@pytest.mark.parametrize(
    ("sizes", "arguments", "message"),
    [
        ({"kv_heads": 3}, {}, "4 query heads cannot share 3 key-value heads"),
        ({"key_length": 5}, {"causal": True}, "self-attention, but there are 16 queries and 5 keys"),
        ({"key_length": 5}, {"segment_ids": jnp.asarray(SEGMENT_IDS)}, "there are 16 queries and 5 keys"),
        ({"key_length": 5}, weights_of("elu", "after"), "there are 16 queries and 5 keys"),
        ({}, {"chunk": 0}, "chunk must be at least 1 token, got 0"),
        ({}, {"rotate": "both"}, "unknown rotate 'both'; there are after, before"),
        ({}, weights_of("elu", "after") | {"layout": None}, "a rotation needs a layout"),
        ({}, {"feature_map": "gelu"}, "unknown feature map 'gelu'; there are elu, relu, softmax, favor"),
        ({}, {"feature_map": jax.nn.gelu}, "must be non-negative.* gelu falls to -0.17"),
        ({}, {"feature_map": "favor"}, "needs a projection"),
        ({}, weights_of("favor", "none") | {"feature_map": "elu"}, "no other map takes one"),
        (
            {},
            weights_of("favor", "none") | {"rotation": weights_of("elu", "after")["rotation"]},
            r"rotates the 12 features, but the rotation has 4 pairs: make it with frequencies\(12\)",
        ),
        ({}, weights_of("elu", "after", jnp.arange(3)), r"positions of shape \(3,\)"),
    ],
)
def test_what_cannot_be_attended_is_refused(sizes, arguments, message):
    with pytest.raises(ValueError, match=message):
        linear_attention(*queries_keys_values(**sizes), **arguments)
    if "key_length" not in sizes:
        with pytest.raises(ValueError, match=message):
            linear_attention_step(*queries_keys_values(**sizes), **arguments)
