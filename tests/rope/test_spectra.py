"""Frequencies follow equation 15, on the host and traced."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax import rope


def spectrum_by_the_definition(dim, theta):
    return np.array([theta ** (-2 * (i - 1) / dim) for i in range(1, dim // 2 + 1)])


@pytest.mark.parametrize(("dim", "theta"), [(2, 10_000), (64, 10_000.0), (128, 500_000.0)])
def test_frequencies_are_those_of_equation_15(dim, theta):
    freqs = rope.frequencies(dim, theta)
    assert isinstance(freqs, np.ndarray)
    assert freqs.dtype == np.float64
    np.testing.assert_allclose(freqs, spectrum_by_the_definition(dim, theta), rtol=4 * np.finfo(np.float64).eps)


@pytest.mark.parametrize(("keep", "kept"), [(1.0, 32), (0.5, 16), (0.3, 9), (0.25, 8), (0.01, 0)])
def test_only_the_first_pairs_are_kept_and_keep_their_frequency(keep, kept):
    freqs = rope.frequencies(64, 1e6, keep=keep)
    np.testing.assert_array_equal(freqs[:kept], rope.frequencies(64, 1e6)[:kept])
    np.testing.assert_array_equal(freqs[kept:], 0)


def test_a_traced_theta_gives_float32_and_a_new_one_does_not_recompile():
    traced = jax.jit(chex.assert_max_traces(lambda theta: rope.frequencies(64, theta, keep=0.5), n=1))
    for theta in (100.0, 1e4, 1.2e7):
        freqs = traced(jnp.float32(theta))
        assert freqs.dtype == jnp.float32
        # The exponent, at most 1, is rounded by half an eps, so the power by ln(theta) times that.
        tolerance = (np.log(theta) / 2 + 2) * np.finfo(np.float32).eps
        np.testing.assert_allclose(freqs, rope.frequencies(64, theta, keep=0.5), rtol=tolerance)


def test_theta_has_a_gradient():
    exponents = -np.arange(0, 64, 2) / 64
    gradient = jax.grad(lambda theta: rope.frequencies(64, theta).sum())(jnp.float32(100.0))
    np.testing.assert_allclose(gradient, (exponents * 100.0 ** (exponents - 1)).sum(), rtol=1e-5)


@pytest.mark.parametrize("dim", [7, 0, -2])
def test_a_dim_that_has_no_pairs_is_refused(dim):
    with pytest.raises(ValueError, match=rf"positive even number .* got {dim}"):
        rope.frequencies(dim)


@pytest.mark.parametrize("theta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_theta_that_is_no_base_is_refused(theta):
    with pytest.raises(ValueError, match=rf"theta must be positive and finite, got {theta}"):
        rope.frequencies(8, theta)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5, float("nan")])
def test_a_keep_that_is_no_fraction_is_refused(keep):
    with pytest.raises(ValueError, match=rf"keep must be a fraction .* \(0, 1\], got {keep}"):
        rope.frequencies(8, keep=keep)
