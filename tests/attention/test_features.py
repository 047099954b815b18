"""Feature maps are non-negative and safe, and FAVOR+ estimates the softmax kernel without bias."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.attention import favor_projection, linear_attention, redrawn_favor_projection
from roformer_jax.attention.features import check_feature_map, favor_exponents, key_features, query_features

EPS = float(np.finfo(np.float32).eps)
HEAD_DIM, FEATURES = 8, 20
NAMES = ("elu", "relu", "softmax", "favor")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def projection_of(name):
    return favor_projection(jax.random.key(0), HEAD_DIM, FEATURES) if name == "favor" else None


def test_random_features_estimate_the_softmax_kernel_without_bias():
    q, k = normal(0, 5, HEAD_DIM) / 2, normal(1, 6, HEAD_DIM) / 2
    draws = 4000

    @jax.jit
    @jax.vmap
    def estimate(key):
        exponents = [favor_exponents(x, favor_projection(key, HEAD_DIM, FEATURES)) for x in (q, k)]
        return jnp.exp(exponents[0]) @ jnp.exp(exponents[1]).T

    estimates = np.asarray(estimate(jax.random.split(jax.random.key(1), draws)), np.float64)
    kernel = np.exp(np.asarray(q, np.float64) @ np.asarray(k, np.float64).T / np.sqrt(HEAD_DIM))
    assert (estimates > 0).all()
    deviation_of_mean = estimates.std(axis=0) / np.sqrt(draws)
    assert (deviation_of_mean < 0.1 * kernel).all()  # a mean that says something
    assert (np.abs(estimates.mean(axis=0) - kernel) < 5 * deviation_of_mean).all()


def test_more_random_features_come_closer_to_softmax_attention():
    q, k, v = (normal(seed, 1, 12, 2, HEAD_DIM) / 2 for seed in range(3))
    weights = jax.nn.softmax(jnp.einsum("blhd,bshd->bhls", q, k) / np.sqrt(HEAD_DIM), axis=-1)
    expected = jnp.einsum("bhls,bshd->blhd", weights, v)

    def error(features):
        projection = favor_projection(jax.random.key(2), HEAD_DIM, features)
        out = jax.jit(linear_attention, static_argnames="feature_map")(
            q, k, v, feature_map="favor", projection=projection
        )
        return float(jnp.sqrt(jnp.mean((out - expected) ** 2)))

    assert error(4096) < error(64) / 3  # the square root of 64 is 8


@pytest.mark.parametrize("features", [3, HEAD_DIM, FEATURES, 3 * HEAD_DIM])
def test_directions_are_orthogonal_in_blocks(features):
    projection = np.asarray(favor_projection(jax.random.key(0), HEAD_DIM, features))
    assert projection.shape == (features, HEAD_DIM)
    unit = projection / np.linalg.norm(projection, axis=1, keepdims=True)
    for start in range(0, features, HEAD_DIM):
        block = unit[start : start + HEAD_DIM]
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), rtol=0, atol=4 * HEAD_DIM * EPS)


def test_directions_are_normal_vectors():
    """Each component has mean 0, variance 1 and fourth moment 3, within five deviations of a mean over the draws."""
    draws = 8000
    keys = jax.random.split(jax.random.key(3), draws)
    samples = np.asarray(jax.jit(jax.vmap(lambda key: favor_projection(key, 4, 4)))(keys), np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert (np.abs((samples**power).mean(axis=0) - moment) < 5 * np.sqrt(variance / draws)).all()


def test_a_projection_is_redrawn_on_schedule_from_its_key():
    @jax.jit
    def at(step):
        return redrawn_favor_projection(jax.random.key(0), step, HEAD_DIM, FEATURES, every=10)

    drawn = [np.asarray(at(step)) for step in (0, 9, 10, 19, 20)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[2], drawn[3])
    assert (drawn[0] != drawn[2]).all() and (drawn[2] != drawn[4]).all()


@settings(deadline=None, max_examples=20)
@given(
    name=st.sampled_from(NAMES),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 30.0, 1e3]),
    shift=st.sampled_from([-1e3, -80.0, 0.0, 80.0, 1e3]),
    seed=st.integers(0, 3),
)
def test_features_are_finite_and_non_negative(name, size, shift, seed):
    x = normal(seed, 2, 3, 2, HEAD_DIM) * size + shift
    features, log_scale = key_features(x, name, projection_of(name), valid=None)
    for array in (query_features(x, name, projection_of(name)), features):
        chex.assert_tree_all_finite(array)
        assert (np.asarray(array) >= 0).all()
    chex.assert_shape(log_scale, (2, 2))
    chex.assert_tree_all_finite(log_scale)
    if name in ("softmax", "favor"):
        largest = np.asarray(features).max(axis=(1, 3))
        assert (largest > 0).all() and (largest < 1e27).all()  # e^60 = 1.1e26


@pytest.mark.parametrize("name", ["softmax", "favor"])
def test_ordinary_keys_are_not_scaled_and_extreme_ones_by_what_is_returned(name):
    x = normal(0, 2, 3, 2, HEAD_DIM)
    exponents = x if name == "softmax" else favor_exponents(x, projection_of(name))
    features, log_scale = key_features(x, name, projection_of(name), valid=None)
    assert not np.asarray(log_scale).any()
    np.testing.assert_array_equal(features, jnp.exp(exponents))
    far = 100 * x
    exponents = far if name == "softmax" else favor_exponents(far, projection_of(name))
    features, log_scale = key_features(far, name, projection_of(name), valid=None)
    assert np.asarray(log_scale).any()
    expected = np.exp(np.asarray(exponents, np.float64) - np.asarray(log_scale, np.float64)[:, None, :, None])
    rounding = 4 * EPS * float(jnp.abs(exponents).max())
    np.testing.assert_allclose(features, expected, rtol=rounding, atol=float(np.finfo(np.float32).tiny))


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_is_no_token_has_no_features_and_no_say_in_the_scale(name):
    x, valid = normal(0, 2, 3, 2, HEAD_DIM), jnp.array([[True, False, True], [False] * 3])
    features, log_scale = key_features(x.at[:, 1].set(500.0), name, projection_of(name), valid=valid)
    assert not np.asarray(features)[~np.asarray(valid)].any()
    expected, scale = key_features(x[:1, ::2], name, projection_of(name), valid=None)
    np.testing.assert_allclose(features[:1, ::2], expected, rtol=32 * EPS)
    np.testing.assert_array_equal(log_scale[:1], scale)


@pytest.mark.parametrize("function", [jnp.tanh, jax.nn.gelu, jax.nn.elu, lambda x: x, lambda x: x * jnp.nan])
def test_a_function_with_negative_features_is_refused(function):
    with pytest.raises(ValueError, match="a feature map must be non-negative"):
        check_feature_map(function, None, HEAD_DIM)


@pytest.mark.parametrize("function", [jnp.exp, jax.nn.softplus, jax.nn.sigmoid, lambda x: jnp.square(x)])
def test_a_function_of_the_users_own_serves_queries_and_keys(function):
    q, k, v = (normal(seed, 1, 5, 2, HEAD_DIM) for seed in range(3))
    weights = jnp.einsum("blhd,bshd->bhls", function(q), function(k))
    expected = jnp.einsum("bhls,bshd->blhd", weights / weights.sum(-1, keepdims=True), v)
    out = jax.jit(linear_attention, static_argnames="feature_map")(q, k, v, feature_map=function)
    np.testing.assert_allclose(out, expected, rtol=0, atol=64 * HEAD_DIM * EPS)


def test_a_function_may_close_over_arrays_that_are_learned():
    q, k, v = (normal(seed, 1, 5, 2, HEAD_DIM) for seed in range(3))
    kernel = normal(3, HEAD_DIM, 6)

    def loss(kernel):
        return linear_attention(q, k, v, feature_map=lambda x: jax.nn.relu(x @ kernel) + 1).sum()

    assert np.asarray(jax.jit(jax.grad(loss))(kernel)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: favor_projection(jax.random.key(0), 0, 4), "must be positive, got 0 and 4"),
        (lambda: favor_projection(jax.random.key(0), 4, 0), "must be positive, got 4 and 0"),
        (lambda: redrawn_favor_projection(jax.random.key(0), 5, 4, 4, every=0), "every 1 step or more, got 0"),
        (
            lambda: check_feature_map("favor", jnp.ones((4, 6)), 8),
            r"shape \(4, 6\).* need \[num_features, 8\]",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
