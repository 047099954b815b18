"""Frequencies follow equation 15."""

import numpy as np
import pytest

from roformer_jax import rope


@pytest.mark.parametrize(("dim", "theta"), [(2, 10_000.0), (64, 10_000.0), (128, 500_000.0)])
def test_frequencies_are_those_of_equation_15(dim, theta):
    expected = [theta ** (-2 * (i - 1) / dim) for i in range(1, dim // 2 + 1)]
    freqs = rope.frequencies(dim, theta)
    assert freqs.dtype == np.float64
    np.testing.assert_allclose(freqs, expected, rtol=4 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("dim", [7, 0, -2])
def test_a_dim_that_has_no_pairs_is_refused(dim):
    with pytest.raises(ValueError, match=rf"positive even number .* got {dim}"):
        rope.frequencies(dim)


@pytest.mark.parametrize("theta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_theta_that_is_no_base_is_refused(theta):
    with pytest.raises(ValueError, match=rf"theta must be positive and finite, got {theta}"):
        rope.frequencies(8, theta)
