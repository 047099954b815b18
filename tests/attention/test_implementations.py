"""One suite for every implementation of softmax attention: dense, block by block, and the kernel for TPUs interpreted.

The kernel is slow where it is interpreted, and is tried on less; compiled for TPUs it is in tests/aot. cuDNN's cannot
be traced without its GPU.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from roformer_jax.attention import dot_product_attention
from roformer_jax.attention.blockwise import blockwise_attention
from tests.attention.reference import EPS, tolerances, value_and_gradients

BATCH, HEADS, HEAD_DIM = 2, 4, 8
FORMS = {
    "dense": partial(dot_product_attention, implementation="dense"),
    "one block": partial(dot_product_attention, implementation="blockwise"),
    "blocks": partial(blockwise_attention, block=8),
    "splash": partial(dot_product_attention, implementation="splash"),
}
LENGTHS = {name: 128 if name == "splash" else 21 for name in FORMS}  # 21 is not a multiple of any block's size
every_form = pytest.mark.parametrize("form", FORMS)
every_form_on_cpu = pytest.mark.parametrize("form", ["dense", "one block", "blocks"])


def segments(form):
    """Rows of documents and padding, in front, between and behind; the last one is all padding."""
    row = np.array([1] * 5 + [2] * 7 + [0] + [3] * 6 + [0] * 2), np.array([0] * 3 + [4] * 18), np.zeros(21)
    ids = np.stack([np.repeat(ids, LENGTHS[form] // 21 + 1)[: LENGTHS[form]] for ids in row])
    return ids.astype(np.int32)


def arrays(form, kv_heads, batch=BATCH):
    """q, k, v and the cotangent of the result."""
    rng = np.random.default_rng(0)
    shape = batch, LENGTHS[form]
    return [
        jnp.asarray(rng.normal(size=(*shape, heads, HEAD_DIM)), jnp.float32)
        for heads in (HEADS, kv_heads, kv_heads, HEADS)
    ]


@partial(jax.jit, static_argnames=("form", "causal", "dropout_rate"))
def differentiated(form, q, k, v, cotangent, **arguments):
    out, pullback = jax.vjp(partial(FORMS[form], **arguments), q, k, v)
    return out, *pullback(cotangent)


def assert_close(found, expected, bounds):
    for name, actual, right, bound in zip(("value", "dq", "dk", "dv"), found, expected, bounds, strict=True):
        np.testing.assert_allclose(np.asarray(actual, np.float64), right, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize(
    ("kv_heads", "causal", "packed"), [(4, False, False), (2, True, True), (1, False, True), (1, True, False)]
)
@every_form
def test_value_and_gradients_are_those_of_equation_2(form, kv_heads, causal, packed):
    if form == "splash" and (kv_heads, packed) not in ((2, True), (1, True)):
        pytest.skip("a kernel that is interpreted takes seconds")
    ids = segments(form) if packed else None
    given = arrays(form, kv_heads, batch=3 if packed else BATCH)
    found = differentiated(form, *given, segment_ids=None if ids is None else jnp.asarray(ids), causal=causal)
    expected = value_and_gradients(*given, segment_ids=ids, causal=causal)
    assert_close(found, expected, tolerances(*given))
    if packed:
        for array in found:
            assert not np.asarray(array)[ids == 0].any()


@every_form_on_cpu
def test_padding_never_reaches_a_document(form):
    ids = segments(form)
    given = arrays(form, 2, batch=3)
    spoiled = [jnp.where((ids == 0)[..., None, None], 1e6, array) for array in given]
    of = partial(differentiated, form, segment_ids=jnp.asarray(ids))
    chex.assert_trees_all_equal(of(*spoiled), of(*given))


@every_form_on_cpu
def test_bfloat16_stays_bfloat16_with_float32_softmax(form):
    given = [array.astype(jnp.bfloat16) for array in arrays(form, 2)]
    found = differentiated(form, *given, causal=True)
    chex.assert_type(found, jnp.bfloat16)
    wide = [np.asarray(array, np.float64) for array in given]
    value, *gradients = value_and_gradients(*wide, causal=True)
    rounding = float(jnp.finfo(jnp.bfloat16).eps) / 2
    # The probabilities and the result are rounded; logits are not, or the error would be HEAD_DIM times as large.
    atol = 2 * rounding * np.abs(wide[2]).max() + tolerances(*wide)[0]
    np.testing.assert_allclose(np.asarray(found[0], np.float64), value, rtol=0, atol=atol)
    for actual, right in zip(found[1:], gradients, strict=True):
        np.testing.assert_allclose(
            np.asarray(actual, np.float64), right, rtol=0, atol=8 * rounding * np.abs(right).max()
        )


def what_dropout_left(form, rate, key):
    """[B, H, L, S]: with zero queries and one-hot values, the result is what is left of probabilities 1 / L."""
    length = LENGTHS[form]
    zeros = jnp.zeros((BATCH, length, HEADS, length))
    one_hot = jnp.broadcast_to(jnp.eye(length)[None, :, None], zeros.shape)
    out = jax.jit(partial(FORMS[form], dropout_rate=rate, dropout_key=key))(zeros, zeros, one_hot)
    return np.asarray(out, np.float64).swapaxes(1, 2) * length


@every_form_on_cpu
def test_the_backward_pass_drops_what_the_forward_pass_dropped(form):
    rate, key = 0.3, jax.random.key(0)
    left = what_dropout_left(form, rate, key)
    deviation = np.sqrt(rate * (1 - rate) / left.size)
    assert abs((left == 0).mean() - rate) < 5 * deviation
    kept = np.where(left == 0, 0, 1 / (1 - rate))
    np.testing.assert_allclose(left, kept, rtol=8 * LENGTHS[form] * EPS)
    given = arrays(form, HEADS)
    found = differentiated(form, *given, dropout_rate=rate, dropout_key=key)
    assert_close(found, value_and_gradients(*given, left=kept), tolerances(*given, rate=rate))


@every_form_on_cpu
def test_dropout_is_decided_by_its_key_alone_and_no_two_blocks_drop_alike(form):
    first, again, other = (what_dropout_left(form, 0.3, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    dropped = first == 0
    assert (dropped[..., :8, :8] != dropped[..., :8, 8:16]).any()
    assert (dropped[..., :8, :8] != dropped[..., 8:16, :8]).any()


@pytest.mark.parametrize(
    ("form", "axes", "spec"),
    [
        ("one block", (4, 2), PartitionSpec("data", None, "tensor")),
        ("blocks", (8, 1), PartitionSpec("data")),
        ("blocks", (4, 2), PartitionSpec("data", None, "tensor")),
        ("splash", (4, 2), PartitionSpec("data", None, "tensor")),
    ],
)
def test_an_explicit_mesh_changes_no_number_and_keeps_the_sharding(form, axes, spec):
    given = arrays(form, 2, batch=8)
    ids = np.resize(segments(form), (8, LENGTHS[form]))
    dropping = {} if form == "splash" else {"dropout_rate": 0.2, "dropout_key": jax.random.key(0)}
    expected = differentiated(form, *given, segment_ids=jnp.asarray(ids), **dropping)
    with jax.set_mesh(jax.make_mesh(axes, ("data", "tensor"), axis_types=(AxisType.Explicit,) * 2)):
        on_mesh = jax.device_put(given, spec)
        placed = jax.device_put(jnp.asarray(ids), PartitionSpec("data"))
        actual = differentiated(form, *on_mesh, segment_ids=placed, **dropping)
        for found, like in zip(actual, (on_mesh[0], *on_mesh[:3]), strict=True):
            assert jax.typeof(found).sharding == jax.typeof(like).sharding
    assert_close(jax.device_get(actual), expected, tolerances(*given, rate=0.2))
