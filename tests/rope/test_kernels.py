"""The Pallas kernels rotate as the forms do: both of them interpreted here, compiled in tests/aot."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec

from roformer_jax import rope
from roformer_jax.rope import kernels
from roformer_jax.rope.layouts import read_and_written

EPS = float(jnp.finfo(jnp.float32).eps)
ROWS, LENGTH, PAIRS = 2, 24, 8
FREQS = rope.frequencies(2 * PAIRS)
LAYOUTS = ("interleaved", "half", "interleaved_to_half", "half_to_interleaved")


def normal(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def queries_and_keys(head_axis, head_dim, dtype):
    """Six heads of queries and two of keys."""
    heads_last = [normal(heads, ROWS, LENGTH, heads, head_dim, dtype=dtype) for heads in (6, 2)]
    return heads_last if head_axis == -2 else [x.swapaxes(1, 2) for x in heads_last]


def aligned_tables(head_axis, rows):
    table = rope.rotation(jnp.arange(rows * LENGTH).reshape(rows, LENGTH), FREQS)
    return tuple(jnp.expand_dims(part, head_axis) for part in table)


@pytest.fixture(params=["mosaic", "triton"])
def kernel(request, monkeypatch):
    """Interprets the kernel of one platform on this one."""
    if request.param == "mosaic":
        original = pl.pallas_call
        monkeypatch.setattr(pl, "pallas_call", lambda *args, **how: original(*args, **how | {"interpret": True}))
        monkeypatch.setattr(kernels, "_triton", lambda *args, interpret=False, **place: kernels._mosaic(*args, **place))
    return kernels.rotate_arrays


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("head_axis", "rows", "start", "head_dim", "dtype"),
    [(-2, 1, 0, 16, "float32"), (-3, 2, 0, 16, "float32"), (-2, 2, 5, 24, "float32"), (-3, 1, 5, 24, "bfloat16")],
)
def test_kernels_rotate_queries_and_keys_as_the_stacked_form_does(
    kernel, layout, head_axis, rows, start, head_dim, dtype
):
    arrays = queries_and_keys(head_axis, head_dim, dtype)
    cos, sin = aligned_tables(head_axis, rows)
    table = rope.Rotation(jnp.squeeze(cos, head_axis), jnp.squeeze(sin, head_axis))
    rotated = kernel(tuple(arrays), cos, sin, *read_and_written(layout), start)
    for x, new in zip(arrays, rotated, strict=True):
        expected = rope.rotate(x, table, layout=layout, head_axis=head_axis, start=start, implementation="stack")
        size = float(jnp.abs(x.astype(jnp.float32)).max())
        assert new.dtype == x.dtype
        difference = jnp.abs(new.astype(jnp.float32) - expected.astype(jnp.float32)).max()
        assert float(difference) <= 2 * size * float(jnp.finfo(x.dtype).eps)


@pytest.mark.parametrize("length", [1, 7, 33])
@pytest.mark.parametrize("head_axis", [-2, -3])
def test_kernels_take_any_length(kernel, length, head_axis):
    x = normal(0, ROWS, length, 4, 2 * PAIRS).swapaxes(1, 1 if head_axis == -2 else 2)
    table = rope.rotation(jnp.arange(length), FREQS)
    expected = rope.rotate(x, table, layout="half", head_axis=head_axis, implementation="stack")
    cos, sin = (jnp.expand_dims(part, (0, head_axis)) for part in table)
    (rotated,) = kernel((x,), cos, sin, "half", "half")
    np.testing.assert_allclose(rotated, expected, rtol=0, atol=2 * EPS * float(jnp.abs(x).max()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_serve_rotate_under_jit_vmap_and_grad(layout):
    x, table = normal(0, 3, LENGTH, 2, 2 * PAIRS), rope.rotation(jnp.arange(LENGTH), FREQS)

    def value_and_gradient(implementation):
        def one_row(x):
            return (rope.rotate(x, table, layout=layout, implementation=implementation) ** 3).sum()

        return jax.jit(jax.vmap(jax.value_and_grad(one_row)))(x)

    (value, gradient), (expected, expected_gradient) = value_and_gradient("pallas"), value_and_gradient("stack")
    size = float(jnp.abs(expected_gradient).max())
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=16 * EPS * size)
    np.testing.assert_allclose(value, expected, rtol=0, atol=x[0].size * EPS * size)


def test_kernels_rotate_the_shards_of_a_mesh():
    mesh = jax.make_mesh((2,), ("length",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    x, table = normal(0, 1, LENGTH, 2, 2 * PAIRS), rope.rotation(jnp.arange(LENGTH), FREQS)
    rotate = jax.shard_map(
        lambda x, table: rope.rotate(x, table, layout="half", implementation="pallas"),
        mesh=mesh,
        in_specs=(PartitionSpec(None, "length"), PartitionSpec("length")),
        out_specs=PartitionSpec(None, "length"),
        check_vma=False,
    )
    expected = rope.rotate(x, table, layout="half")
    np.testing.assert_allclose(jax.jit(rotate)(x, table), expected, rtol=0, atol=2 * EPS * float(jnp.abs(x).max()))


@pytest.mark.parametrize(
    ("shape", "pairs", "message"),
    [
        ((2, 6, 3, 12), 6, "power of two of pairs, got 6; 'stack' rotates any"),
        ((6, 16), 8, r"one table for all heads, got tables of shape \(6, 8\)"),
    ],
)
def test_what_no_kernel_was_written_for_is_refused(shape, pairs, message):
    head_axis = -2 if len(shape) > 2 else None
    table = rope.rotation(jnp.arange(6), rope.frequencies(2 * pairs))
    with pytest.raises(ValueError, match=message):
        rope.rotate(jnp.ones(shape), table, layout="half", head_axis=head_axis, implementation="pallas")


def test_what_no_kernel_computes_is_refused():
    x, table = normal(0, ROWS, LENGTH, 2, 2 * PAIRS, dtype="float16"), rope.rotation(jnp.arange(LENGTH), FREQS)
    with pytest.raises(ValueError, match="rotates bfloat16 or float32, got float16"):
        rope.rotate(x, table, layout="half", implementation="pallas")


def test_queries_and_keys_go_through_one_kernel_in_both_directions(monkeypatch):
    jax.clear_caches()  # what another test has traced is not traced again
    together, original = [], kernels.rotate_arrays

    def recorded(arrays, *arguments):
        together.append(len(arrays))
        return original(arrays, *arguments)

    monkeypatch.setattr(kernels, "rotate_arrays", recorded)
    q, k = normal(0, ROWS, LENGTH, 5, 2 * PAIRS), normal(1, ROWS, LENGTH, 1, 2 * PAIRS)
    table = rope.rotation(jnp.arange(LENGTH), FREQS)

    def both(implementation):
        return lambda q, k: rope.rotate_qk(q, k, table, layout="half", implementation=implementation)

    (rotated, back), (expected, expected_back) = (jax.vjp(both(name), q, k) for name in ("pallas", "stack"))
    chex.assert_trees_all_close(rotated, expected, rtol=0, atol=2 * EPS * 5)  # |q| and |k| stay below 5
    chex.assert_trees_all_close(back((q, k)), expected_back((q, k)), rtol=0, atol=2 * EPS * 5)
    assert set(together) == {2}  # the way back may be the trace of the way there
