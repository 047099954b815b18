"""The analysis agrees with brute force in float64, and the checker catches what breaks the relative law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax import rope

EPS = float(np.finfo(np.float64).eps)
DIM = 128
FREQS = rope.frequencies(DIM)


def paper_freqs(dim, theta=10_000.0):
    return theta ** (-2 * np.arange(dim // 2) / dim)


def brute_cosine_sums(dim, theta, length):
    return np.cos(np.arange(length)[:, None] * paper_freqs(dim, theta)).sum(axis=1)


def test_a_pair_turns_once_in_its_wavelength_and_a_still_pair_never():
    freqs = np.array([[1.0, -0.5], [0.001, 0.0]])
    expected = [[2 * math.pi, 4 * math.pi], [2000 * math.pi, math.inf]]
    np.testing.assert_allclose(rope.wavelengths(freqs), expected, rtol=EPS)


@pytest.mark.parametrize("dim", [64, 128])
def test_the_decay_bound_is_the_mean_size_of_the_partial_sums(dim):
    """Equations 35 to 37, by a triangular matrix of ones instead of a cumulative sum."""
    distances = np.arange(16385)
    turns = np.exp(1j * distances[:, None] * paper_freqs(dim))
    expected = np.abs(turns @ np.triu(np.ones((dim // 2, dim // 2)))).mean(axis=1)
    np.testing.assert_allclose(rope.decay_bound(rope.frequencies(dim), distances), expected, rtol=0, atol=1e-6)


def test_the_decay_bound_has_the_values_of_figure_2():
    """It falls from 32.5 to about 6.5 at distance 256, and goes up at 115 of the 256 steps between."""
    bound = rope.decay_bound(FREQS, np.arange(257))
    assert bound[0] == 32.5 and 6 < bound[256] < 7
    assert np.count_nonzero(np.diff(bound) > 0) == 115


def test_the_decay_bound_takes_distances_of_any_shape_and_sign():
    distances = np.array([[0, 7, -7], [300, -300, 16]])
    bound = rope.decay_bound(jnp.asarray(FREQS, jnp.float32), distances)
    # Frequencies of at most 1 rounded to float32 move a phase by 300 eps / 2 at most, and a mean of up to 64 of them.
    np.testing.assert_allclose(
        bound, rope.decay_bound(FREQS, np.abs(distances)), rtol=0, atol=64 * 300 * np.finfo(np.float32).eps
    )
    assert bound[0, 1] == bound[0, 2]


@pytest.mark.parametrize("length", [1, 2, 3, 24, 25, 26, 5000])
def test_cosine_sums_are_the_sums_of_cosines(length):
    # 64 cosines of angles up to the length, each angle rounded by half an eps, in two orders of evaluation.
    tolerance = 2 * 64 * length * EPS
    expected = brute_cosine_sums(DIM, 10_000.0, length)
    np.testing.assert_allclose(rope.cosine_sums(FREQS, length), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dim", "length"), [(128, 128), (16, 48), (4, 20)])
def test_no_theta_below_the_lower_bound_is_good_and_the_bound_is(dim, length):
    bound = rope.base_lower_bound(length, dim)
    assert brute_cosine_sums(dim, bound, length).min() >= 0
    # The bound exceeds the smallest good theta by at most its resolution.
    for theta in np.geomspace(1, bound * (1 - 2e-4), 2000):
        assert brute_cosine_sums(dim, theta, length).min() < 0, theta


@pytest.mark.parametrize(("length", "published"), [(1024, 4.3e3), (4096, 2.7e4), (8192, 8.4e4)])
def test_lower_bounds_are_the_published_ones(length, published):
    """Table of arXiv 2405.14591 for dim = 128, which gives two digits."""
    assert rope.base_lower_bound(length) == pytest.approx(published, rel=0.02)


def test_the_search_finds_a_smaller_good_theta_than_the_published_1_6e4():
    bound = rope.base_lower_bound(2048)
    assert bound < 1.2e4
    assert brute_cosine_sums(DIM, bound, 2048).min() >= 0


@pytest.mark.parametrize(
    "arguments",
    [{"length": 1}, {"length": 9, "dim": 2}, {"length": 9, "dim": 5}, {"length": 9, "resolution": 0.0}],
)
def test_a_lower_bound_that_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match=r"needs length >= 2, an even dim >= 4 and resolution > 0, got length=\d"):
        rope.base_lower_bound(**arguments)


def test_cosine_sums_of_no_distance_are_refused():
    with pytest.raises(ValueError, match="length must be at least 1 token, got 0"):
        rope.cosine_sums(FREQS, 0)


def by_exact_phases(layout, freqs=FREQS):
    return jax.jit(lambda x, positions: rope.rotate(x, rope.rotation(positions, freqs), layout=layout, head_axis=None))


def by_angles(dtype, table_dtype=jnp.float32):
    """The usual implementation: positions times frequencies in a floating-point type."""

    @jax.jit
    def rotate_function(x, positions):
        angles = positions.astype(dtype)[:, None] * jnp.asarray(FREQS, dtype)[None]
        tables = jax.tree.map(
            lambda table: table.astype(table_dtype).astype(jnp.float32),
            rope.rotation_from_angles(angles.astype(jnp.float32)),
        )
        return rope.rotate(x, tables, layout="half", head_axis=None)

    return rotate_function


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_exact_phases_keep_the_relative_law_at_any_position(layout):
    ours = by_exact_phases(layout)
    for length in (2, 2**13, 2**20, 2**30, 2**31):
        assert rope.relative_error(ours, DIM, length, samples=8) < 2e-6


def test_the_relative_law_holds_where_only_some_channels_turn():
    assert rope.relative_error(by_exact_phases("half", rope.frequencies(32)), DIM, 2**20) < 2e-6


def test_float32_angles_are_caught_at_a_million_tokens():
    assert rope.relative_error(by_angles(jnp.float32), DIM, 2**20) > 2e-2


def test_bfloat16_tables_are_caught_at_8192_tokens():
    assert rope.relative_error(by_angles(jnp.float32, jnp.bfloat16), DIM, 2**13) > 4e-3


def test_bfloat16_positions_are_caught_at_512_tokens():
    assert rope.relative_error(by_angles(jnp.bfloat16), DIM, 2**9) > 1


def test_the_relative_error_is_the_worst_over_all_queries_and_keys():
    """One pair of many jumps by 0.1 radians halfway: that pair alone is |exp(0.1 i) - 1| off."""
    jump = 0.1

    def jumping(x, positions):
        angles = np.outer(positions, FREQS)
        angles[:, 40] += jump * (np.asarray(positions) >= 500)
        pairs = np.asarray(x, np.float64).reshape(-1, DIM // 2, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)

    # float64 throughout; an angle of at most 1000 radians is rounded by half an eps.
    assert rope.relative_error(jumping, DIM, 1000) == pytest.approx(2 * math.sin(jump / 2), abs=4 * 1000 * EPS)


def test_a_function_that_returns_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned shape \(128, 64\) for x of shape \(128, 128\)"):
        rope.relative_error(lambda x, _: x[:, :64], DIM, 100, samples=1)


@pytest.mark.parametrize(("dim", "length", "samples"), [(0, 9, 1), (8, 1, 1), (8, 2**31 + 1, 1), (8, 9, 0)])
def test_a_trial_of_the_relative_law_that_cannot_be_is_refused(dim, length, samples):
    with pytest.raises(ValueError, match=rf"got dim={dim}, samples={samples}, length={length}"):
        rope.relative_error(by_exact_phases("half"), dim, length, samples=samples)
