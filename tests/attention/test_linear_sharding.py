"""Linear attention is the same over devices, however they split it, and takes memory that grows with the length."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from roformer_jax import rope
from roformer_jax.attention import linear_attention
from roformer_jax.sharding import MeshConfig, make_mesh
from tests.attention.linear_reference import (
    HEAD_DIM,
    HEADS,
    LENGTH,
    SEGMENT_IDS,
    brute_force,
    queries_keys_values,
    weights_of,
)


def packed_value_and_gradients(causal, axis_name=None):
    def function(q, k, v, segment_ids, table):
        attention = partial(linear_attention, layout="half", causal=causal, chunk=3, axis_name=axis_name)
        out, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, table, segment_ids=segment_ids), q, k, v)
        return out, *pullback(out)

    return function


def packed_arguments(kv_heads=2):
    ids = jnp.asarray(SEGMENT_IDS)
    return *queries_keys_values(kv_heads), ids, rope.rotation(rope.packed_positions(ids), rope.frequencies(HEAD_DIM))


def closeness(arguments):
    """A gradient sums over LENGTH queries of HEADS / 2 heads; the same sums in another order."""
    weights = {"rotation": arguments[4], "feature_map": "elu", "projection": None, "rotate": "before"}
    _, rounding = brute_force(*arguments[:3], **weights, segment_ids=SEGMENT_IDS)
    return LENGTH * HEADS * rounding


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("mesh", "spec"),
    [
        (
            lambda: jax.make_mesh((4, 2), ("data", "heads"), axis_types=(AxisType.Explicit,) * 2),
            ("data", None, "heads"),
        ),
        (lambda: make_mesh(MeshConfig(fsdp=2)), (("data", "fsdp"),)),
    ],
    ids=["batch and heads", "training mesh"],
)
def test_an_explicit_mesh_changes_no_number_and_keeps_the_sharding(mesh, spec, causal):
    function, arguments = jax.jit(packed_value_and_gradients(causal)), packed_arguments()
    expected = function(*arguments)
    rows, arrays = PartitionSpec(spec[0]), PartitionSpec(*spec)
    with jax.set_mesh(mesh()):
        on_mesh = jax.device_put(arguments, (arrays, arrays, arrays, rows, rope.Rotation(rows, rows)))
        actual = function(*on_mesh)
        for leaf, like in zip(actual, (on_mesh[0], *on_mesh[:3]), strict=True):
            assert jax.typeof(leaf).sharding == jax.typeof(like).sharding
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=0, atol=closeness(arguments))


@pytest.mark.parametrize("causal", [False, True])
def test_heads_lie_on_the_devices_that_have_them(causal):
    """Under plain `jit` the compiler moves nothing: attention of a head needs no other."""
    function, arguments = jax.jit(packed_value_and_gradients(causal)), packed_arguments(HEADS)
    mesh = jax.make_mesh((4,), ("heads",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    arrays, whole = NamedSharding(mesh, PartitionSpec(None, None, "heads")), NamedSharding(mesh, PartitionSpec())
    on_mesh = jax.device_put(arguments, (arrays, arrays, arrays, whole, rope.Rotation(whole, whole)))
    compiled = function.lower(*on_mesh).compile()
    assert not {"all-gather", "all-reduce", "all-to-all"} & set(compiled.as_text().replace("(", " ").split())
    chex.assert_trees_all_close(
        jax.device_get(compiled(*on_mesh)), function(*arguments), rtol=0, atol=closeness(arguments)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_sequence_over_shards_is_one_sequence(causal, packed):
    """Four shards of four tokens: a segment covers one, two, or all of them, or starts and ends inside."""
    arguments = packed_arguments()
    if not packed:
        arguments = (*arguments[:3], None, arguments[4])
    expected = jax.jit(packed_value_and_gradients(causal))(*arguments)
    mesh = jax.make_mesh((2, 4), ("data", "sequence"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec("data", "sequence")
    function = jax.shard_map(packed_value_and_gradients(causal, "sequence"), mesh=mesh, in_specs=spec, out_specs=spec)
    chex.assert_trees_all_close(
        jax.device_get(jax.jit(function)(*arguments)), expected, rtol=0, atol=closeness(arguments)
    )


def test_shards_agree_on_the_scale_of_exponentials():
    q, k, v = queries_keys_values()
    k += jnp.repeat(jnp.array([100.0, -100.0, 0.0, 150.0]), 4)[None, :, None, None]
    expected, rounding = brute_force(q, k, v, **weights_of("softmax", "none"))
    mesh = jax.make_mesh((4,), ("sequence",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec(None, "sequence")
    attention = partial(linear_attention, feature_map="softmax", axis_name="sequence")
    out = jax.jit(jax.shard_map(attention, mesh=mesh, in_specs=spec, out_specs=spec))(q, k, v)
    np.testing.assert_allclose(out, expected, rtol=0, atol=150 * rounding)


@pytest.mark.parametrize("batch", [1, 8])
def test_one_row_keeps_its_sharding(batch):
    q, k, v = (x[:batch] for x in queries_keys_values(2))
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1])):
        on_mesh = jax.device_put((q, k, v), PartitionSpec("data"))
        for chunk in (5, 64):
            out = jax.eval_shape(partial(linear_attention, causal=True, chunk=chunk), *on_mesh)
            assert out.sharding == jax.typeof(on_mesh[0]).sharding


@pytest.mark.parametrize(
    ("form", "rotate"), [("causal", "after"), ("causal", "before"), ("packed", "after"), ("dense", "after")]
)
def test_memory_is_linear_forward_and_backward(form, rotate):
    """And not quadratic: four times the tokens take four times the memory, with a twentieth for what is rounded up."""

    def bytes_at(length):
        q, k, v = (jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32) for _ in range(3))
        ids = jnp.ones((1, length), jnp.int32) if form == "packed" else None
        table = rope.rotation(jnp.arange(length), rope.frequencies(16))
        arguments = {"layout": "half", "rotate": rotate, "causal": form == "causal", "segment_ids": ids}
        loss = jax.grad(lambda *qkv: linear_attention(*qkv, table, **arguments).sum(), argnums=(0, 1, 2))
        return jax.jit(loss).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    short = bytes_at(2048)
    assert short < 40 * 2048 * 2 * 16 * 4  # arrays of the size of the queries
    assert bytes_at(8192) < 4 * 1.05 * short
