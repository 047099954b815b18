import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from roformer_jax.attention.dropout import dropout

SHAPE = (6, 5, 64, 63)


def kept(key, shape=SHAPE, rate=0.25):
    return np.asarray(dropout(jnp.ones(shape), rate, key)) != 0


def correlation(a, b):
    """In deviations of that of independent elements."""
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(a.size)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate_in_every_direction(rate):
    dropped = 1 - kept(jax.random.key(1), (64, 64, 64), rate).astype(np.float64)
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(dropped.mean() - rate) < 5 * deviation / np.sqrt(dropped.size)
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
        means = dropped.mean(axis=axes)
        count = dropped.size / means.size
        # The spread of the means is that of independent elements; its own error is about 1 / sqrt(2 means).
        assert abs(means.std() / (deviation / np.sqrt(count)) - 1) < 5 / np.sqrt(2 * means.size) + 1 / means.size


def test_neighbours_rows_and_keys_are_independent():
    one, other = kept(jax.random.key(0)), kept(jax.random.key(1))
    pairs = [(one, other), (one[:-1], one[1:]), (one[:, :-1], one[:, 1:]), (one[:, :, :-1], one[:, :, 1:])]
    pairs += [(one[..., :-shift], one[..., shift:]) for shift in (1, 2, 3, 16)]
    for a, b in pairs:
        assert correlation(a, b) < 5


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    values = np.unique(np.asarray(dropout(jnp.full(SHAPE, 2.0), 0.3, jax.random.key(0))))
    np.testing.assert_allclose(values, [0, 2 / (1 - 0.3)], rtol=2 * np.finfo(np.float32).eps)


def test_the_dtype_stays():
    assert dropout(jnp.ones((4, 8), jnp.bfloat16), 0.1, jax.random.key(0)).dtype == jnp.bfloat16


@pytest.mark.parametrize(("rate", "key"), [(0.0, jax.random.key), (0.5, lambda seed: None)])
def test_without_a_rate_or_a_key_it_is_the_same_array(rate, key):
    x = jnp.ones(3)
    assert dropout(x, rate, key(0)) is x


def test_a_rate_next_to_one_leaves_finite_numbers():
    chex.assert_tree_all_finite(dropout(jnp.ones(SHAPE), 1 - 1e-9, jax.random.key(0)))


def test_the_same_elements_are_dropped_however_the_array_is_split():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    expected = kept(jax.random.key(3), (6, 4, 8, 7))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((6, 4, 8, 7)), NamedSharding(mesh, PartitionSpec("a", None, "b")))
        found = jax.jit(dropout, static_argnums=1)(x, 0.25, jax.random.key(3))
        assert jax.typeof(found).sharding == jax.typeof(x).sharding
    np.testing.assert_array_equal(np.asarray(found) != 0, expected)


def test_the_gradient_is_dropped_alike():
    x = jnp.ones(SHAPE)
    gradient = jax.grad(lambda x: jnp.sum(dropout(x, 0.25, jax.random.key(2))))(x)
    np.testing.assert_array_equal(gradient, dropout(x, 0.25, jax.random.key(2)))
