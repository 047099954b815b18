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


AXES_FREQS = np.stack([FREQS, 0.5 * FREQS[::-1], np.where(np.arange(32) < 7, FREQS, 0)])


def test_angles_of_several_axes_add_up_exactly():
    positions = np.array([[3, 5, 7], [2**20, -9, 2**19]], np.int32)
    tables = rope.rotation(positions, AXES_FREQS)
    angles = positions @ AXES_FREQS
    chex.assert_shape(tables, (2, 32))
    quantisation = 2 * np.pi * (2**20 + 9 + 2**19) * 2.0**-33  # half a phase step per token and axis
    assert_tables_close(tables, rope.Rotation(np.cos(angles), np.sin(angles)), TABLE_ERROR + quantisation)
    moved = rope.rotation(positions + np.array([1, 2, 3], np.int32), AXES_FREQS)
    delta = rope.rotation(np.array([1, 2, 3], np.int32)[None], AXES_FREQS)
    assert_tables_close(tables @ delta, moved, 5 * TABLE_ERROR)


def test_every_head_may_have_its_own_frequencies():
    freqs_AHF = np.random.default_rng(0).normal(size=(2, 3, 32))
    positions = np.array([[1, 2], [3, 4], [0, 5]], np.int32)
    tables = rope.rotation(positions, freqs_AHF)
    chex.assert_shape(tables, (3, 3, 32))
    for head in range(3):
        one = rope.rotation(positions, freqs_AHF[:, head])
        assert_tables_close(rope.Rotation(tables.cos[:, head], tables.sin[:, head]), one, 0)


def test_float_positions_of_several_axes_have_a_gradient_in_the_frequencies():
    positions, freqs = jnp.array([[0.5, 2.0]]), jnp.asarray(AXES_FREQS[:2], jnp.float32)
    gradient = jax.grad(lambda freqs: rope.rotation(positions, freqs, exact=False).sin.sum())(freqs)
    cosines = np.cos(np.array([[0.5, 2.0]]) @ AXES_FREQS[:2])
    np.testing.assert_allclose(gradient, np.array([[0.5], [2.0]]) * cosines, rtol=0, atol=2 * 8 * EPS)


def test_the_gain_is_the_modulus():
    plain, scaled = table(9), rope.rotation(np.array([9], np.int32), FREQS, gain=1.25)
    assert_tables_close(scaled, jax.tree.map(lambda part: 1.25 * part, plain), 1.25 * EPS)
    assert_tables_close(scaled @ scaled.inverse(), table(0), 8 * EPS)


def test_given_angles_are_taken_as_they_are():
    angles = jnp.cumsum(jnp.asarray(np.random.default_rng(0).uniform(0, 0.1, (5, 2, 8)), jnp.float32), axis=0)
    assert_tables_close(rope.rotation_from_angles(angles), rope.Rotation(np.cos(angles), np.sin(angles)), 2 * EPS)
    log_modulus = -angles[..., :1]
    damped = rope.rotation_from_angles(angles, log_modulus=log_modulus)
    np.testing.assert_allclose(np.hypot(*damped), np.broadcast_to(np.exp(log_modulus), angles.shape), rtol=4 * EPS)


def test_angles_that_depend_on_data_have_a_gradient():
    angles = jnp.full((3, 4), 0.7)
    gradient = jax.grad(lambda angles: rope.rotation_from_angles(angles).sin.sum())(angles)
    np.testing.assert_allclose(gradient, np.full((3, 4), np.cos(np.float32(0.7))), rtol=0, atol=2 * EPS)


class TestXPos:
    """xPos, equation 15 of arXiv 2212.10554, without its centring on the middle of the sequence."""

    def test_scores_are_scaled_by_the_distance_alone(self):
        q, k = rope.xpos_rotation(np.array([2_000, 2_000 + 9_000]), FREQS)
        q_near, k_near = (rope.Rotation(part.cos[0], part.sin[0]) for part in (q, k))
        q_far, k_far = (rope.Rotation(part.cos[1], part.sin[1]) for part in (q, k))
        zeta = (np.arange(32) / 32 + 0.4) / 1.4
        # The exponents reach 11,000 / 512 * ln(1 / zeta_0) = 27; their float32 rounding is what remains.
        error = 2 * 27 * 3 * EPS + 4 * TABLE_ERROR
        for query, key, distance in [(q_near, k_near, 0), (q_far, k_far, 0), (q_far, k_near, 9_000)]:
            product = query @ key.conj()
            scale = zeta ** (distance / 512)
            expected = rope.Rotation(scale * np.cos(distance * FREQS), scale * np.sin(distance * FREQS))
            np.testing.assert_array_less(np.abs(product.cos - expected.cos), error * scale + 1e-30)
            np.testing.assert_array_less(np.abs(product.sin - expected.sin), error * scale + 1e-30)

    def test_a_cached_key_does_not_change_as_the_sequence_grows(self):
        _, short = rope.xpos_rotation(jnp.arange(8), FREQS)
        _, long = rope.xpos_rotation(jnp.arange(64), FREQS)
        chex.assert_trees_all_equal(short, jax.tree.map(lambda part: part[:8], long))

    @pytest.mark.parametrize("name", ["scale_base", "gamma"])
    def test_impossible_parameters_are_refused(self, name):
        with pytest.raises(ValueError, match=f"{name} must be positive and finite, got 0"):
            rope.xpos_rotation(jnp.arange(8), FREQS, **{name: 0.0})


@pytest.mark.parametrize(
    ("positions", "freqs", "message"),
    [
        ((3,), (2, 32), r"freqs of shape \(2, 32\) are for positions \[..., length, 2\], got shape \(3,\)"),
        ((3, 4), (2, 32), r"for positions \[..., length, 2\], got shape \(3, 4\)"),
        ((3, 2), (2, 1, 1, 32), r"freqs are \[pairs\] for one axis, \[axes, pairs\] or \[axes, heads, pairs\]"),
    ],
)
def test_axes_that_do_not_fit_are_refused_with_their_shapes(positions, freqs, message):
    with pytest.raises(ValueError, match=message):
        rope.rotation(jnp.zeros(positions, jnp.int32), np.ones(freqs))


@pytest.mark.parametrize("gain", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_gain_is_refused(gain):
    with pytest.raises(ValueError, match="gain must be positive and finite, got"):
        rope.rotation(jnp.arange(3), FREQS, gain=gain)
