"""Attention block by block: memory linear in the length, and no work for pairs of blocks in which nothing is seen."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.attention import dot_product_attention
from roformer_jax.attention.blockwise import blockwise_attention
from tests.attention.reference import tolerances

WIDTH = 8


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def optimized():
    """The programs that users run, not those that compile quickly."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def compiled_gradient(length, **arguments):
    """Forward and backward pass with dropout, of one row of one head."""

    def loss(q, k, v, key):
        out = blockwise_attention(q, k, v, dropout_key=key, block=128, **arguments)
        return jnp.sum(out * out)

    shape = jax.ShapeDtypeStruct((1, length, 1, WIDTH), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape, shape, shape, key).compile()


def test_memory_is_linear_in_the_length(optimized):
    lengths = 4096, 8192
    programs = [compiled_gradient(length, causal=True, dropout_rate=0.1) for length in lengths]
    memory = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert memory[1] < 2.2 * memory[0]
    assert memory[1] < lengths[1] ** 2  # bytes: less than a boolean for each pair of tokens
    for length, program in zip(lengths, programs, strict=True):
        assert f"{length},{length}" not in program.as_text()


def spoiled(values, rows):
    """What is multiplied with these values becomes NaN, be its weight zero."""
    return values.at[:, rows].set(jnp.nan)


def value_and_pullback(**arguments):
    """Values and cotangent -> the result, and the gradient of the values."""
    q, k = (normal(seed, 2, 32, 2, WIDTH) for seed in range(2))

    @jax.jit
    def both(v, cotangent):
        out, pullback = jax.vjp(lambda v: blockwise_attention(q, k, v, block=8, **arguments), v)
        return out, pullback(cotangent)[0]

    return both, (normal(2, *q.shape), normal(3, *q.shape))


def test_blocks_in_the_future_are_not_computed():
    both, given = value_and_pullback(causal=True)
    past, future = slice(0, 16), slice(16, 32)
    out, gradient = both(*given)
    chex.assert_trees_all_equal(both(spoiled(given[0], future), given[1])[0][:, past], out[:, past])
    chex.assert_trees_all_equal(both(given[0], spoiled(given[1], past))[1][:, future], gradient[:, future])


def test_blocks_that_share_no_segment_in_any_row_are_not_computed():
    ids = jnp.asarray([[1] * 16 + [2] * 8 + [3] * 8, [0] * 3 + [5] * 13 + [9] * 16], jnp.int32)
    both, given = value_and_pullback(segment_ids=ids)
    out, gradient = both(*given)
    for here, elsewhere in ((slice(0, 16), slice(16, 32)), (slice(16, 32), slice(0, 16))):
        found = both(*(spoiled(array, elsewhere) for array in given))
        chex.assert_trees_all_equal([array[:, here] for array in found], [array[:, here] for array in (out, gradient)])


def test_it_works_in_checkpointed_layers_of_a_scan_under_vmap():
    """As the layers of a model, for several models at once."""
    x, weights = normal(0, 3, 2, 20, 2, WIDTH), normal(1, 2, WIDTH, WIDTH) / np.sqrt(WIDTH)
    ids = jnp.asarray([[1] * 9 + [2] * 11, [3] * 17 + [0] * 3], jnp.int32)
    blocks = {"block": 8}

    def loss(x, attention, arguments):
        @jax.checkpoint
        def layer(x, weight):
            return x + attention(x @ weight, x, x, segment_ids=ids, causal=True, **arguments), None

        return jnp.sum(jax.lax.scan(layer, x, weights)[0] ** 2)

    def gradients(attention, arguments):
        return jax.jit(jax.vmap(jax.grad(lambda x: loss(x, attention, arguments))))(x)

    expected = gradients(dot_product_attention, {"implementation": "dense"})
    # Each layer multiplies an error by what it does to its input: a residual, and three paths through the attention.
    growth = 4 ** len(weights)
    atol = growth * max(tolerances(x[0], x[0], x[0], expected[0]))
    chex.assert_trees_all_close(gradients(blockwise_attention, blocks), expected, rtol=0, atol=atol)
