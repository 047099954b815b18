"""Weights move between layouts without changing any attention score."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
LAYOUTS = ("interleaved", "half")
LENGTH, WIDTH, HEAD_DIM = 6, 10, 8


@partial(jax.jit, static_argnames=("heads", "kv_heads", "layout", "rotary_dim"))
def scores(x, w_q, w_k, b_q, *, heads, kv_heads, layout, rotary_dim):
    tables = rope.rotation(jnp.arange(LENGTH), rope.frequencies(rotary_dim))
    q = (x @ w_q + b_q[None]).reshape(LENGTH, heads, HEAD_DIM)
    k = (x @ w_k).reshape(LENGTH, kv_heads, HEAD_DIM)
    q, k = rope.rotate_qk(q, k, tables, layout=layout)
    return jnp.einsum("LHD,SHD->HLS", q, jnp.repeat(k, heads // kv_heads, axis=1))


@pytest.mark.parametrize("rotary_dim", [HEAD_DIM, 4])
@pytest.mark.parametrize(("source", "target"), [LAYOUTS, LAYOUTS[::-1]])
def test_converted_projections_give_the_same_attention_scores(source, target, rotary_dim):
    heads, kv_heads = 4, 2
    shapes = [(LENGTH, WIDTH), (WIDTH, heads * HEAD_DIM), (WIDTH, kv_heads * HEAD_DIM), (heads * HEAD_DIM,)]
    rng = np.random.default_rng(0)
    x, w_q, w_k, b_q = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)

    def convert(kernel, num_heads):
        return rope.convert_layout(kernel, source, target, num_heads=num_heads, rotary_dim=rotary_dim)

    sizes = {"heads": heads, "kv_heads": kv_heads, "rotary_dim": rotary_dim}
    expected = scores(x, w_q, w_k, b_q, layout=source, **sizes)
    converted = (convert(w_q, heads), convert(w_k, kv_heads), convert(b_q, heads))
    # The same products in another order: each score is a sum of HEAD_DIM terms, bounded by |q| |k|.
    bound = HEAD_DIM * EPS * float(jnp.abs(x @ w_q + b_q[None]).max() * jnp.abs(x @ w_k).max()) * HEAD_DIM
    np.testing.assert_allclose(scores(x, *converted, layout=target, **sizes), expected, rtol=0, atol=bound)
    assert jnp.abs(scores(x, *converted, layout=source, **sizes) - expected).max() > 100 * bound


@settings(deadline=None, max_examples=50)
@given(
    heads=st.integers(1, 4),
    pairs=st.integers(1, 5),
    passive=st.integers(0, 3),
    axis=st.integers(-3, 2),
    layouts=st.permutations(LAYOUTS),
)
def test_converting_there_and_back_changes_no_bit(heads, pairs, passive, axis, layouts):
    shape = [2, 3, 4]
    shape[axis] = heads * (2 * pairs + passive)
    kernel = np.random.default_rng(0).normal(size=shape)
    place = {"num_heads": heads, "axis": axis, "rotary_dim": 2 * pairs}
    there = rope.convert_layout(kernel, *layouts, **place)
    np.testing.assert_array_equal(rope.convert_layout(there, *reversed(layouts), **place), kernel)


def test_interleaved_pairs_become_halves():
    np.testing.assert_array_equal(
        rope.convert_layout(np.arange(8), "interleaved", "half", num_heads=2, rotary_dim=4), [0, 2, 1, 3, 4, 6, 5, 7]
    )
    np.testing.assert_array_equal(
        rope.convert_layout(np.arange(12), "interleaved", "half", num_heads=2, rotary_dim=4),
        [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11],
    )


def test_arrays_keep_their_library():
    assert isinstance(rope.convert_layout(np.ones(8), *LAYOUTS, num_heads=1), np.ndarray)
    assert isinstance(rope.convert_layout(jnp.ones(8), *LAYOUTS, num_heads=1), jax.Array)


def test_a_layout_converts_to_itself_unchanged():
    np.testing.assert_array_equal(rope.convert_layout(np.arange(8), "half", "half", num_heads=1), np.arange(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "neox", "num_heads": 2}, "unknown layout 'neox'"),
        ({"num_heads": 5}, r"axis -1 of shape \(3, 16\) has 16 entries, not a multiple of 5 heads"),
        ({"num_heads": 2, "rotary_dim": 3}, "between 2 and the head size 8, got 3"),
        ({"num_heads": 2, "rotary_dim": 10}, "between 2 and the head size 8, got 10"),
    ],
)
def test_impossible_conversions_are_refused(arguments, message):
    arguments = {"source": "half", "target": "interleaved"} | arguments
    with pytest.raises(ValueError, match=message):
        rope.convert_layout(np.ones((3, 16)), **arguments)
