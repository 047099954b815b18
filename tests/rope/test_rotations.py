"""Rotation tables are exact at any position, and compose as rotations do."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
# An angle of at most pi is rounded three times (phase to float32, the unit, their product), half an eps each;
# the float32 sine and cosine add at most two eps.
TABLE_ERROR = (1.5 * np.pi + 2) * EPS
FREQS = rope.frequencies(64)

positions_st = st.integers(-(2**24), 2**24)


def table(position: int, freqs=FREQS) -> rope.Rotation:
    return rope.rotation(np.array([position], np.int32), freqs)


def assert_tables_close(actual: rope.Rotation, expected: rope.Rotation, tolerance: float):
    np.testing.assert_allclose(actual.cos, expected.cos, rtol=0, atol=tolerance)
    np.testing.assert_allclose(actual.sin, expected.sin, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64])
def test_tables_are_float32_cos_and_sin_of_the_float64_angle(dtype):
    positions = np.array([[0, 1, 2, 300], [4096, 2**17, 2**20 - 1, 2**20]], dtype)
    angles = positions[..., None] * FREQS
    tables = rope.rotation(positions, FREQS)
    chex.assert_shape(tables, (2, 4, 32))
    chex.assert_type(list(tables), jnp.float32)
    quantisation = 2 * np.pi * 2**20 * 2.0**-33  # half a phase step per token
    assert_tables_close(tables, rope.Rotation(np.cos(angles), np.sin(angles)), TABLE_ERROR + quantisation)


def test_negative_positions_turn_backwards():
    positions = jnp.arange(1, 100)
    assert_tables_close(rope.rotation(-positions, FREQS), rope.rotation(positions, FREQS).conj(), TABLE_ERROR)


def test_position_zero_is_the_identity():
    tables = table(0)
    assert (tables.cos == 1).all() and (tables.sin == 0).all()


@settings(deadline=None, max_examples=30)
@given(m=positions_st, n=positions_st)
def test_rotations_compose_by_adding_positions(m, n):
    assert_tables_close(table(m) @ table(n), table(m + n), 5 * TABLE_ERROR)  # two factors of two tables, and the sum's


@settings(deadline=None, max_examples=30)
@given(m=positions_st)
def test_the_inverse_and_the_conjugate_undo_a_rotation(m):
    identity = rope.Rotation(np.ones((1, 32)), np.zeros((1, 32)))
    assert_tables_close(table(m) @ table(m).inverse(), identity, 4 * TABLE_ERROR)
    assert_tables_close(table(m) @ table(m).conj(), identity, 4 * TABLE_ERROR)


def test_the_inverse_undoes_a_modulus_that_is_not_one():
    scaled = jax.tree.map(lambda part: 3 * part, table(17))
    composed = scaled @ scaled.inverse()
    assert_tables_close(composed, rope.Rotation(np.ones((1, 32)), np.zeros((1, 32))), 8 * EPS)


def test_a_decoded_token_gets_the_bits_of_the_prefilled_one():
    build = jax.jit(lambda positions: rope.rotation(positions, FREQS))
    prefilled = build(jnp.arange(2**24, 2**24 + 8))
    for offset in range(8):
        decoded = build(jnp.full(8, 2**24 + offset))
        chex.assert_trees_all_equal(
            jax.tree.map(lambda part: part[0], decoded), jax.tree.map(lambda part, at=offset: part[at], prefilled)
        )


def test_traced_frequencies_keep_the_composition_law():
    build = jax.jit(rope.rotation)
    tables = build(jnp.array([2**23 + 5, 7_654_321, 2**23 + 5 + 7_654_321]), FREQS)
    m, n, total = (rope.Rotation(tables.cos[i], tables.sin[i]) for i in range(3))
    assert_tables_close(m @ n, total, 5 * TABLE_ERROR)


def test_traced_frequencies_turn_at_the_same_speed_up_to_their_float32_rounding():
    positions = jnp.arange(1024)
    traced = jax.jit(rope.rotation)(positions, FREQS)
    # The frequency, its conversion to turns and its rounding to a step: half an eps each, per radian turned.
    assert_tables_close(traced, rope.rotation(positions, FREQS), 2 * TABLE_ERROR + 1.5 * EPS * 1024)


def test_frequencies_above_a_turn_per_token_wrap():
    positions = jnp.arange(50)
    fast = FREQS + 2 * np.pi
    assert_tables_close(rope.rotation(positions, fast), rope.rotation(positions, FREQS), 2 * TABLE_ERROR)
    assert_tables_close(rope.rotation(positions, -FREQS), rope.rotation(-positions, FREQS), 2 * TABLE_ERROR)


def test_neighbouring_positions_differ_where_bfloat16_positions_would_not():
    cos = rope.rotation(jnp.array([1024, 1025]), FREQS).cos
    assert jnp.abs(cos[0, 0] - cos[1, 0]) > 0.1


def test_one_compilation_serves_every_theta_and_every_position():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def build(positions, freqs):
        return rope.rotation(positions, freqs)

    for offset, theta in [(0, 10_000.0), (5_000, 10_000.0), (2**24, 500_000.0)]:
        build(jnp.arange(8) + offset, rope.frequencies(64, theta))


def test_inexact_rotations_take_float_positions():
    positions = np.array([0.0, 0.5, 7.25], np.float32)
    angles = positions[:, None].astype(np.float64) * FREQS
    tables = rope.rotation(positions, FREQS, exact=False)
    # Two roundings of an angle of at most 7.25 radians, and the float32 sine and cosine.
    assert_tables_close(tables, rope.Rotation(np.cos(angles), np.sin(angles)), (7.25 + 2) * EPS)


def test_inexact_rotations_have_a_gradient_in_the_frequencies():
    freqs = jnp.asarray(FREQS, jnp.float32)
    gradient = jax.grad(lambda freqs: rope.rotation(jnp.array([3]), freqs, exact=False).sin.sum())(freqs)
    np.testing.assert_allclose(gradient, 3 * np.cos(3 * FREQS), rtol=0, atol=3 * 6 * EPS)  # 3 radians, rounded twice


def test_float_positions_are_refused_by_exact_phases():
    with pytest.raises(ValueError, match="positions are float32; pass integer positions, or exact=False"):
        rope.rotation(jnp.array([0.5]), FREQS)


def test_frequencies_of_more_than_one_axis_are_refused():
    with pytest.raises(ValueError, match=r"freqs must have one axis, the rotary pairs, got shape \(2, 32\)"):
        rope.rotation(jnp.arange(3), np.stack([FREQS, FREQS]))
