"""Gradients through the rotation: back by the conjugate, right for learned tables, at any order, on any mesh."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
BATCH, LENGTH, HEADS, HEAD_DIM = 8, 6, 2, 16
ROTARY_DIM, START = 8, 4
LAYOUTS = ("interleaved", "half")
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def rotate(x, tables, layout):
    return rope.rotate(x, tables, layout=layout, start=START)


def plain_formula(x, tables, layout):
    """Equation 13 pair by pair, differentiated by JAX alone."""
    first = START + (2 * np.arange(ROTARY_DIM // 2) if layout == "interleaved" else np.arange(ROTARY_DIM // 2))
    second = first + (1 if layout == "interleaved" else ROTARY_DIM // 2)
    cos, sin = tables.cos[None, :, None], tables.sin[None, :, None]
    real, imaginary = x[..., first], x[..., second]
    return x.at[..., first].set(real * cos - imaginary * sin).at[..., second].set(real * sin + imaginary * cos)


@pytest.fixture
def x():
    return normal(0, BATCH, LENGTH, HEADS, HEAD_DIM)


@pytest.fixture
def cotangent():
    return normal(1, BATCH, LENGTH, HEADS, HEAD_DIM)


@pytest.fixture
def tables():
    return rope.rotation(jnp.arange(LENGTH), rope.frequencies(ROTARY_DIM))


@pytest.mark.parametrize(
    ("layout", "transposed"), [*zip(LAYOUTS, LAYOUTS, strict=True), ("interleaved_to_half", "half_to_interleaved")]
)
def test_the_cotangent_is_rotated_by_the_conjugate(x, cotangent, tables, layout, transposed):
    _, pullback = jax.vjp(lambda x: rotate(x, tables, layout), x)
    chex.assert_trees_all_equal(pullback(cotangent)[0], rotate(cotangent, tables.conj(), transposed))
    inner_product = (rotate(x, tables, layout) * cotangent).sum()
    atol = np.sqrt(x.size) * EPS * 25  # a sum of products below 25, rounded in either order
    np.testing.assert_allclose(inner_product, (x * pullback(cotangent)[0]).sum(), rtol=0, atol=atol)


@both_layouts
def test_gradients_of_x_and_of_the_tables_are_those_of_the_plain_formula(x, cotangent, tables, layout):
    @partial(jax.jit, static_argnums=0)
    def gradients(function):
        return jax.vjp(lambda x, tables: function(x, tables, layout), x, tables)[1](cotangent)

    # A table entry gathers two products from every head of every row; |x| and |cotangent| stay below 5.
    atol = 2 * BATCH * HEADS * EPS * 5 * 5
    chex.assert_trees_all_close(gradients(rotate), gradients(plain_formula), rtol=0, atol=atol)


@both_layouts
@pytest.mark.parametrize("part", ["cos", "sin"])
def test_the_gradient_of_either_table_matches_finite_differences(x, cotangent, tables, layout, part):
    def objective(table):
        return (rotate(x, tables._replace(**{part: table}), layout) * cotangent).sum()

    table, direction = getattr(tables, part), normal(2, *tables.cos.shape)
    difference = objective(table + direction) - objective(table - direction)  # exact: linear in either table
    derivative = (jax.grad(objective)(table) * direction).sum()
    # Each objective sums |x| |cotangent| (1 + |direction|) over all entries, below 25 * 5 each.
    np.testing.assert_allclose(derivative, difference / 2, rtol=0, atol=np.sqrt(x.size) * EPS * 25 * 5)


@both_layouts
def test_gradients_of_gradients_are_those_of_the_plain_formula(x, tables, layout):
    def penalty(function):
        def objective(x, tables):
            return jnp.sin(function(x, tables, layout)).sum()

        def squared_gradient(x, tables):
            gradients = jax.grad(objective, argnums=(0, 1))(x, tables)
            return sum((leaf**2).sum() for leaf in jax.tree.leaves(gradients))

        return jax.jit(jax.grad(squared_gradient, argnums=(0, 1)))(x, tables)

    # Sums over BATCH * HEADS products of a first gradient (itself such a sum) and an entry of x, each below 5.
    atol = (2 * BATCH * HEADS) ** 2 * EPS * 5 * 5
    chex.assert_trees_all_close(penalty(rotate), penalty(plain_formula), rtol=0, atol=atol)


def test_fixed_tables_keep_no_activation_for_the_backward_pass(x, tables):
    _, pullback = jax.vjp(lambda x: rotate(x, tables, "half"), x)
    assert max(leaf.size for leaf in jax.tree.leaves(pullback)) == tables.cos.size
    _, pullback = jax.vjp(lambda x, tables: rotate(x, tables, "half"), x, tables)
    assert max(leaf.size for leaf in jax.tree.leaves(pullback)) == x.size


def test_bfloat16_gets_a_bfloat16_gradient_and_float32_tables_a_float32_one(x, tables):
    gradients = jax.grad(lambda x, tables: rotate(x, tables, "half").sum(), argnums=(0, 1))(
        x.astype(jnp.bfloat16), tables
    )
    assert [leaf.dtype for leaf in jax.tree.leaves(gradients)] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_a_function_that_stops_the_gradient_stops_the_rotation_too(x, tables):
    @jax.custom_vjp
    def opaque(x):
        return x.sum()

    opaque.defvjp(lambda x: (x.sum(), None), lambda _, cotangent: (None,))
    assert not jax.grad(lambda x: opaque(rotate(x, tables, "half")))(x).any()


def test_learned_frequencies_get_a_gradient():
    freqs, x = jnp.asarray(rope.frequencies(HEAD_DIM), jnp.float32), jnp.ones((LENGTH, HEAD_DIM))

    def first_channels(freqs):
        tables = rope.rotation(jnp.arange(LENGTH), freqs, exact=False)
        return rope.rotate(x, tables, layout="half", head_axis=None)[:, : HEAD_DIM // 2].sum()

    angles = np.arange(LENGTH)[:, None] * np.asarray(freqs, np.float64)
    expected = (np.arange(LENGTH)[:, None] * (-np.sin(angles) - np.cos(angles))).sum(0)
    # LENGTH terms of at most LENGTH * 2, at angles of at most LENGTH radians rounded twice.
    np.testing.assert_allclose(jax.grad(first_channels)(freqs), expected, rtol=0, atol=2 * LENGTH**3 * EPS)


@both_layouts
@pytest.mark.parametrize("sharded_tables", [False, True])
def test_an_explicit_mesh_changes_no_number_and_keeps_the_batch_sharded(x, cotangent, layout, sharded_tables):
    segment_ids = jnp.ones((BATCH if sharded_tables else 1, LENGTH), jnp.int32)

    @jax.jit
    def value_and_gradients(x, segment_ids, cotangent):
        tables = rope.rotation(rope.packed_positions(segment_ids), rope.frequencies(ROTARY_DIM))
        rotated, pullback = jax.vjp(lambda x, tables: rotate(x, tables, layout), x, tables)
        return rotated, pullback(cotangent)

    expected = value_and_gradients(x, segment_ids, cotangent)
    batch = PartitionSpec("data")
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        on_mesh = jax.device_put(
            (x, segment_ids, cotangent), (batch, batch if sharded_tables else PartitionSpec(), batch)
        )
        rotated, (x_cotangent, table_cotangents) = value_and_gradients(*on_mesh)
        assert jax.typeof(rotated).sharding.spec[0] == jax.typeof(x_cotangent).sharding.spec[0] == "data"
        assert jax.typeof(table_cotangents.cos).sharding.spec[0] == ("data" if sharded_tables else None)
    # Table gradients sum BATCH * HEADS products below 25, in another order on eight devices.
    atol = 2 * BATCH * HEADS * EPS * 25
    chex.assert_trees_all_close((rotated, (x_cotangent, table_cotangents)), expected, rtol=0, atol=atol)
