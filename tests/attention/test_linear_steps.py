"""Linear attention token by token is the parallel form, with a state of constant size."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.attention import LinearState, linear_attention, linear_attention_step
from tests.attention.linear_reference import (
    BATCH,
    HEAD_DIM,
    LENGTH,
    VALUE_DIM,
    brute_force,
    queries_keys_values,
    weights_of,
)

attend = jax.jit(linear_attention, static_argnames=("layout", "feature_map", "rotate", "causal"))
step = jax.jit(linear_attention_step, static_argnames=("layout", "feature_map", "rotate", "chunk"))


@pytest.mark.parametrize(
    ("feature_map", "rotate"),
    [("elu", "after"), ("relu", "before"), ("softmax", "none"), ("favor", "after"), ("favor", "before")],
)
def test_steps_are_the_parallel_form(feature_map, rotate):
    """A prompt right-padded to 9 of up to 9 tokens, then one token at a time, continued at each row's own position."""
    q, k, v = queries_keys_values(kv_heads=2)
    prompt, lengths = 9, np.array([9, 4, 1, 0, 9, 4, 1, 7])
    valid = np.arange(prompt) < lengths[:, None]
    padded = [jnp.where(valid[..., None, None], x[:, :prompt], 3e2) for x in (q, k, v)]
    parallel = attend(q, k, v, **weights_of(feature_map, rotate), causal=True)
    _, rounding = brute_force(q, k, v, **weights_of(feature_map, rotate), causal=True)

    out, state = step(*padded, **weights_of(feature_map, rotate, jnp.arange(prompt)), valid=valid, chunk=4)
    np.testing.assert_allclose(
        out, jnp.where(valid[..., None, None], parallel[:, :prompt], 0), rtol=0, atol=2 * rounding
    )
    first = state
    for n in range(LENGTH):
        m = np.minimum(lengths + n, LENGTH - 1)[:, None]
        token = [jnp.take_along_axis(x, m[..., None, None], axis=1) for x in (q, k, v)]
        here = (lengths + n < LENGTH)[:, None]
        out, state = step(*token, **weights_of(feature_map, rotate, jnp.asarray(m)), state=state, valid=here)
        expected = jnp.take_along_axis(parallel, m[..., None, None], axis=1)
        np.testing.assert_allclose(out, jnp.where(here[..., None, None], expected, 0), rtol=0, atol=2 * rounding)
        chex.assert_trees_all_equal_shapes_and_dtypes(first, state)


def test_a_state_takes_larger_keys_than_it_began_with():
    q, k, v = queries_keys_values()
    k = k + jnp.linspace(-200.0, 200.0, 5)[np.arange(LENGTH) // 4][:, None, None][None]
    attention = partial(step, feature_map="softmax")
    expected, rounding = brute_force(q[:, -1:], k, v, **weights_of("softmax", "none"))
    state = None
    for n in range(LENGTH):
        out, state = attention(*(x[:, n : n + 1] for x in (q, k, v)), state=state)
        chex.assert_tree_all_finite((out, state))
    np.testing.assert_allclose(out, expected, rtol=0, atol=400 * rounding)  # exponents of up to 200, each rounded


def test_the_state_is_of_constant_size_in_float32():
    q, k, v = (x.astype(jnp.bfloat16) for x in queries_keys_values(kv_heads=2))
    _, state = step(q, k, v, **weights_of("elu", "after"))
    assert isinstance(state, LinearState)
    chex.assert_shape(state.sums, (BATCH, 2, HEAD_DIM, VALUE_DIM + 1))
    chex.assert_type(jax.tree.leaves(state), jnp.float32)
