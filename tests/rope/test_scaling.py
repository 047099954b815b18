"""Scalings are the formulas of their papers, computed here pair by pair, on the host and traced."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax import rope

EPS = np.finfo(np.float64).eps
THETA, DIM, LENGTH = 500_000.0, 128, 8192
FREQS = rope.frequencies(DIM, THETA)
SHORT, LONG = 1 + np.arange(64) / 100, 1.5 + np.arange(64)

SCALINGS = {  # every scaling as a function of (freqs, factor)
    "linear": rope.scale_linear,
    "ntk": rope.scale_ntk,
    "dynamic": lambda freqs, factor: rope.scale_dynamic_ntk(freqs, factor, length=20_000, original_length=LENGTH),
    "yarn": lambda freqs, factor: rope.scale_yarn(freqs, factor, original_length=LENGTH),
    "yarn, not truncated": lambda freqs, factor: rope.scale_yarn(freqs, factor, original_length=LENGTH, truncate=False),
    "llama3": lambda freqs, factor: rope.scale_llama3(freqs, factor, original_length=LENGTH),
}


def yarn_by_the_definition(theta, dim, factor, length, beta_fast, beta_slow, truncate):
    """YaRN's own code: places of the ramp from theta, one pair at a time."""

    def place(turns):
        return dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(beta_fast), place(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    scaled = []
    for pair in range(dim // 2):
        freq = theta ** (-2 * pair / dim)
        ramp = min(max((pair - low) / (high - low), 0), 1)
        scaled.append(freq / factor * ramp + freq * (1 - ramp))
    return np.array(scaled)


def llama3_by_the_definition(freqs, factor, length, low_freq_factor, high_freq_factor):
    """Meta's `apply_scaling`, by wavelengths."""
    scaled = []
    for freq in freqs:
        wavelength = 2 * math.pi / freq
        if wavelength < length / high_freq_factor:
            scaled.append(freq)
        elif wavelength > length / low_freq_factor:
            scaled.append(freq / factor)
        else:
            smooth = (length / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
            scaled.append((1 - smooth) * freq / factor + smooth * freq)
    return np.array(scaled)


def test_linear_scaling_makes_position_n_times_factor_look_like_position_n():
    np.testing.assert_allclose(12 * 4.0 * rope.scale_linear(FREQS, 4.0), 12 * FREQS, rtol=2 * EPS)


@pytest.mark.parametrize("factor", [1, 2.0, 16.0])
def test_ntk_is_a_larger_base(factor):
    expected = rope.frequencies(DIM, THETA * factor ** (DIM / (DIM - 2)))
    np.testing.assert_allclose(rope.scale_ntk(FREQS, factor), expected, rtol=32 * EPS)


def test_ntk_keeps_the_only_frequency_of_one_pair():
    np.testing.assert_array_equal(rope.scale_ntk(rope.frequencies(2), 8.0), [1.0])


@pytest.mark.parametrize("length", [1, 100, LENGTH])
def test_dynamic_ntk_changes_nothing_up_to_the_original_length(length):
    scaled = rope.scale_dynamic_ntk(FREQS, 4.0, length=length, original_length=LENGTH)
    np.testing.assert_array_equal(scaled, FREQS)


@pytest.mark.parametrize("length", [LENGTH + 1, 40_000])
def test_dynamic_ntk_grows_the_base_with_the_length(length):
    base = THETA * (4.0 * length / LENGTH - (4.0 - 1)) ** (DIM / (DIM - 2))
    scaled = rope.scale_dynamic_ntk(FREQS, 4.0, length=length, original_length=LENGTH)
    np.testing.assert_allclose(scaled, rope.frequencies(DIM, base), rtol=32 * EPS)


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(
    ("theta", "dim", "factor", "length", "beta_fast", "beta_slow"),
    [
        (10_000.0, 128, 16.0, 4096, 32.0, 1.0),  # Llama 2 with YaRN
        (150_000.0, 64, 32.0, 4096, 32.0, 1.0),  # gpt-oss
        (10_000.0, 64, 40.0, 4096, 32.0, 1.0),  # DeepSeek-V3
        (THETA, DIM, 4.0, 262_144, 20.0, 2.5),
        (100.0, 8, 2.0, 64, 32.0, 1.0),  # both ends of the ramp are clipped
    ],
)
def test_yarn_finds_its_ramp_in_the_spectrum_where_the_paper_computes_it_from_theta(
    theta, dim, factor, length, beta_fast, beta_slow, truncate
):
    expected = yarn_by_the_definition(theta, dim, factor, length, beta_fast, beta_slow, truncate)
    scaled = rope.scale_yarn(
        rope.frequencies(dim, theta),
        factor,
        original_length=length,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        truncate=truncate,
    )
    # The place of the ramp's ends divides by the logarithm of a ratio near 1, and a slow pair is `factor` times slower.
    np.testing.assert_allclose(scaled, expected, rtol=dim * factor * EPS)


def test_yarn_follows_a_spectrum_that_was_scaled_before():
    """Half the frequencies over twice the length turn as often: the ramp lies at the same pairs."""
    scaled = rope.scale_yarn(rope.scale_linear(FREQS, 2.0), 4.0, original_length=2 * LENGTH)
    np.testing.assert_allclose(scaled, rope.scale_yarn(FREQS, 4.0, original_length=LENGTH) / 2, rtol=256 * EPS)


def test_yarn_takes_a_spectrum_that_was_computed_in_float32():
    freqs = np.float32(1) / np.float32(THETA) ** (np.arange(0, DIM, 2, dtype=np.float32) / np.float32(DIM))
    scaled = rope.scale_yarn(freqs, 4.0, original_length=LENGTH, truncate=False)
    expected = rope.scale_yarn(FREQS, 4.0, original_length=LENGTH, truncate=False)
    # The ratio of two frequencies, from which the ramp is placed, is off by about 20 eps; its logarithm is 0.2.
    np.testing.assert_allclose(scaled, expected, rtol=DIM * 20 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(("factor", "low", "high"), [(8.0, 1.0, 4.0), (32.0, 1.0, 4.0), (4.0, 2.0, 9.0)])
def test_llama3_is_the_three_cases_of_its_authors(factor, low, high):
    expected = llama3_by_the_definition(FREQS, factor, LENGTH, low, high)
    scaled = rope.scale_llama3(FREQS, factor, original_length=LENGTH, low_freq_factor=low, high_freq_factor=high)
    np.testing.assert_allclose(scaled, expected, rtol=8 * factor * EPS)
    assert scaled[0] == FREQS[0]
    np.testing.assert_allclose(scaled[-1], FREQS[-1] / factor, rtol=2 * EPS)


def test_llama3_leaves_pairs_that_do_not_rotate_alone():
    np.testing.assert_array_equal(rope.scale_llama3(np.zeros(4), 8.0, original_length=LENGTH), 0)


@pytest.mark.parametrize(("length", "factors"), [(1, SHORT), (LENGTH, SHORT), (LENGTH + 1, LONG)])
def test_longrope_switches_its_factors_beyond_the_original_length(length, factors):
    scaled = rope.scale_longrope(FREQS, list(SHORT), LONG, length=length, original_length=LENGTH)
    np.testing.assert_allclose(scaled, FREQS / factors, rtol=2 * EPS)


def test_gains_are_those_of_the_papers():
    assert rope.yarn_gain(40.0) == pytest.approx(0.1 * math.log(40) + 1)
    assert rope.yarn_gain(40.0, 0.707, 1.3) == pytest.approx((0.0707 * math.log(40) + 1) / (0.13 * math.log(40) + 1))
    assert rope.longrope_gain(32, 4096) == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    assert rope.yarn_gain(1.0) == rope.longrope_gain(1.0, 4096) == 1


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(sorted(SCALINGS)),
    factor=st.floats(1.0, 100.0),
    pairs=st.integers(2, 128),
    theta=st.floats(10.0, 1e8),
)
def test_no_pair_turns_faster_and_none_slower_than_by_the_whole_factor(name, factor, pairs, theta):
    freqs = rope.frequencies(2 * pairs, theta)
    scaled = SCALINGS[name](freqs, factor)
    # The dynamic factor grows past the static one with the length.
    most = 1 + factor * (20_000 / LENGTH - 1) if name == "dynamic" else factor
    assert np.all(scaled <= freqs * (1 + 8 * EPS))
    assert np.all(scaled >= freqs / most * (1 - 8 * EPS))


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_numpy_stays_numpy_float64(name):
    scaled = SCALINGS[name](FREQS, 4)
    assert isinstance(scaled, np.ndarray)
    assert scaled.dtype == np.float64


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_a_traced_factor_gives_float32_without_recompiling_and_has_a_gradient(name):
    chex.clear_trace_counter()
    scale = jax.jit(chex.assert_max_traces(lambda factor: SCALINGS[name](FREQS, factor), n=1))
    for factor in (1.0, 4.0, 32.0):
        scaled = scale(jnp.float32(factor))
        assert scaled.dtype == jnp.float32
        # Each frequency is a few float32 operations; rounding of a ramp is worth `factor` times more in a slow pair.
        np.testing.assert_allclose(scaled, SCALINGS[name](FREQS, factor), rtol=64 * factor * np.finfo(np.float32).eps)
    step = 1e-4
    slope = (SCALINGS[name](FREQS, 4 + step) - SCALINGS[name](FREQS, 4 - step)).sum() / (2 * step)
    gradient = jax.grad(lambda factor: SCALINGS[name](FREQS, factor).sum())(jnp.float32(4))
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(SCALINGS))
def test_a_traced_theta_can_be_scaled(name):
    theta = jnp.float32(10_000.0)
    scaled = jax.jit(lambda theta: SCALINGS[name](rope.frequencies(16, theta), 4))(theta)
    expected = SCALINGS[name](rope.frequencies(16, 10_000.0), 4)
    np.testing.assert_allclose(scaled, expected, rtol=64 * 4 * np.finfo(np.float32).eps)


def test_a_new_length_does_not_recompile():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def scale(length):
        dynamic = rope.scale_dynamic_ntk(FREQS, 4.0, length=length, original_length=LENGTH)
        return dynamic, rope.scale_longrope(FREQS, SHORT, LONG, length=length, original_length=LENGTH)

    for length in (1, LENGTH, LENGTH + 1, 100_000):
        dynamic, longrope = scale(jnp.int32(length))
        expected = rope.scale_dynamic_ntk(FREQS, 4.0, length=length, original_length=LENGTH)
        np.testing.assert_allclose(dynamic, expected, rtol=16 * np.finfo(np.float32).eps)
        factors = LONG if length > LENGTH else SHORT
        np.testing.assert_allclose(longrope, FREQS / factors, rtol=4 * np.finfo(np.float32).eps)


def test_traced_gains_are_float32():
    yarn, longrope = jax.jit(lambda factor: (rope.yarn_gain(factor), rope.longrope_gain(factor, 4096)))(jnp.float32(8))
    assert yarn.dtype == longrope.dtype == jnp.float32
    np.testing.assert_allclose(yarn, rope.yarn_gain(8.0), rtol=4 * np.finfo(np.float32).eps)
    np.testing.assert_allclose(longrope, rope.longrope_gain(8.0, 4096), rtol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("name", sorted(set(SCALINGS) - {"linear"}))
def test_a_factor_that_shortens_is_refused_where_it_makes_no_sense(name):
    with pytest.raises(ValueError, match=r"factor must be at least 1 and finite, got 0\.5"):
        SCALINGS[name](FREQS, 0.5)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (lambda: rope.scale_linear(FREQS, 0.0), "factor must be positive and finite, got 0.0"),
        (
            lambda: rope.scale_dynamic_ntk(FREQS, 2.0, length=0, original_length=8),
            "^length must be positive and finite, got 0",
        ),
        (
            lambda: rope.scale_yarn(FREQS, 2.0, original_length=8, beta_fast=1.0, beta_slow=2.0),
            "beta_fast must be above beta_slow, got beta_fast=1.0 and beta_slow=2.0",
        ),
        (
            lambda: rope.scale_llama3(FREQS, 2.0, original_length=8, low_freq_factor=4.0),
            "high_freq_factor must be above low_freq_factor, got high_freq_factor=4.0 and low_freq_factor=4.0",
        ),
        (
            lambda: rope.scale_longrope(FREQS, [1.0, 2.0], LONG, length=8, original_length=8),
            r"short_factors must hold one factor per frequency, \(64,\), got \(2,\)",
        ),
        (
            lambda: rope.scale_longrope(FREQS, SHORT, LONG - 5, length=8, original_length=8),
            r"smallest of long_factors must be positive and finite, got -3\.5",
        ),
        (lambda: rope.scale_yarn(np.ones(1), 2.0, original_length=8), "ratio of neighbouring frequencies, got 1 of"),
        (
            lambda: rope.scale_yarn(rope.frequencies(8, keep=0.5), 2.0, original_length=8),
            "falling geometric series",
        ),
        (
            lambda: rope.scale_yarn(rope.scale_llama3(FREQS, 8.0, original_length=8192), 2.0, original_length=8),
            "ratios from 0.5.* to 0.8",
        ),
        (lambda: rope.scale_yarn(FREQS[::-1], 2.0, original_length=8), "falling geometric series"),
        (lambda: rope.yarn_gain(0.5), "factor must be at least 1 and finite, got 0.5"),
        (lambda: rope.longrope_gain(2.0, 1), "original_length must be at least 2 and finite, got 1"),
        (lambda: rope.longrope_gain(float("inf"), 8), "factor must be at least 1 and finite, got inf"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(scale, message):
    with pytest.raises(ValueError, match=message):
        scale()
