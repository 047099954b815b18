"""Weights and caches move between layouts without changing any attention score."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
LAYOUTS = ("interleaved", "half")
LENGTH, WIDTH, HEADS, KV_HEADS, HEAD_DIM = 6, 10, 4, 2, 8
CACHED = 4
# A normalised head has a norm of at most sqrt(HEAD_DIM) * max|scale|, scales stay below 2; a score sums HEAD_DIM
# products in another order, of factors rounded a few times each on the way.
SCORE_ERROR = 4 * HEAD_DIM * EPS * (2 * np.sqrt(HEAD_DIM)) ** 2
both_directions = pytest.mark.parametrize(("source", "target"), [LAYOUTS, LAYOUTS[::-1]])
# All channels of a head, its first ones, some in the middle, its last ones.
rotary_parts = pytest.mark.parametrize(("start", "rotary_dim"), [(0, None), (0, 4), (2, 4), (-4, None)])


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def x():
    return normal(0, LENGTH, WIDTH)


@pytest.fixture
def weights():
    """Of a query and a key projection with grouped queries, biases and qk-norm."""
    return {
        name: {
            "kernel": normal(seed, WIDTH, heads * HEAD_DIM),
            "bias": normal(seed + 1, heads * HEAD_DIM),
            "scale": 1 + normal(seed + 2, HEAD_DIM) / 8,
        }
        for name, heads, seed in (("q", HEADS, 1), ("k", KV_HEADS, 4))
    }


def convert(weights, source, target, **part):
    return {
        name: {
            "kernel": rope.convert_layout(group["kernel"], source, target, num_heads=heads, **part),
            "bias": rope.convert_layout(group["bias"], source, target, num_heads=heads, **part),
            "scale": rope.convert_layout(group["scale"], source, target, num_heads=1, **part),
        }
        for (name, group), heads in zip(weights.items(), (HEADS, KV_HEADS), strict=True)
    }


@partial(jax.jit, static_argnames=("layout", "start", "rotary_dim"))
def rotated(x_LM, positions_L, weights, *, layout, start, rotary_dim):
    """Queries [L, H, D] and keys [L, K, D]: projected, normalised per head, rotated."""
    rest = -start if start < 0 else HEAD_DIM - start
    tables = rope.rotation(positions_L, rope.frequencies(rest if rotary_dim is None else rotary_dim))

    def head_vectors(group):
        heads = (x_LM @ group["kernel"] + group["bias"][None]).reshape(x_LM.shape[0], -1, HEAD_DIM)
        norm = jnp.sqrt((heads * heads).mean(-1, keepdims=True))
        return rope.rotate(heads / norm * group["scale"][None, None], tables, layout=layout, start=start)

    return head_vectors(weights["q"]), head_vectors(weights["k"])


def scores(q_LHD, k_SKD):
    return np.einsum("LHD,SHD->HLS", q_LHD, np.repeat(k_SKD, HEADS // KV_HEADS, axis=1))


@rotary_parts
@both_directions
def test_converted_projections_give_the_same_attention_scores(x, weights, source, target, start, rotary_dim):
    part = {"start": start, "rotary_dim": rotary_dim}
    expected = scores(*rotated(x, jnp.arange(LENGTH), weights, layout=source, **part))
    converted = convert(weights, source, target, **part)
    actual = scores(*rotated(x, jnp.arange(LENGTH), converted, layout=target, **part))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=SCORE_ERROR)
    unconverted = scores(*rotated(x, jnp.arange(LENGTH), weights, layout=target, **part))
    assert np.abs(unconverted - expected).max() > 100 * SCORE_ERROR


@rotary_parts
@both_directions
def test_a_cache_is_converted_in_the_middle_of_decoding(x, weights, source, target, start, rotary_dim):
    part = {"start": start, "rotary_dim": rotary_dim}
    q, k = rotated(x, jnp.arange(LENGTH), weights, layout=source, **part)
    expected = scores(q, k)[:, CACHED:]
    cache_BSKD = rope.convert_layout(k[None, :CACHED], source, target, num_heads=1, **part)
    positions = jnp.arange(CACHED, LENGTH)
    q, k = rotated(x[CACHED:], positions, convert(weights, source, target, **part), layout=target, **part)
    actual = scores(q, np.concatenate([cache_BSKD[0], k]))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=SCORE_ERROR)


def test_blocks_are_converted_as_so_many_heads():
    x = normal(0, LENGTH, HEADS, HEAD_DIM)
    tables = rope.rotation(jnp.arange(LENGTH), rope.frequencies(HEAD_DIM))
    convert_heads = partial(rope.convert_layout, source="half", target="interleaved", num_heads=2)
    before = rope.rotate(convert_heads(x), tables, layout="interleaved")
    after = convert_heads(rope.rotate(x, tables, layout="half", blocks=2))
    np.testing.assert_allclose(before, after, rtol=0, atol=5 * 4 * EPS)  # |x| < 5; two products and their sum, rounded


def test_a_layout_that_writes_another_is_converted_as_it_reads_before_and_as_it_writes_after():
    x = normal(0, LENGTH, HEADS, HEAD_DIM)
    tables = rope.rotation(jnp.arange(LENGTH), rope.frequencies(HEAD_DIM))
    crossed = rope.rotate(x, tables, layout="interleaved_to_half")
    back = rope.convert_layout(crossed, "half", "interleaved", num_heads=1)
    np.testing.assert_allclose(back, rope.rotate(x, tables, layout="interleaved"), rtol=0, atol=5 * 4 * EPS)


def test_a_fused_kernel_is_split_converted_and_joined(x, weights):
    values = normal(7, WIDTH, KV_HEADS * HEAD_DIM)
    ends = np.cumsum([HEADS, KV_HEADS]) * HEAD_DIM
    fused = np.concatenate([weights["q"]["kernel"], weights["k"]["kernel"], values], axis=-1)
    parts = np.split(fused, ends, axis=-1)
    for part, heads in ((0, HEADS), (1, KV_HEADS)):
        parts[part] = rope.convert_layout(parts[part], *LAYOUTS, num_heads=heads)
    q_kernel, k_kernel, v_kernel = np.split(np.concatenate(parts, axis=-1), ends, axis=-1)
    converted = convert(weights, *LAYOUTS)
    np.testing.assert_array_equal(q_kernel, converted["q"]["kernel"])
    np.testing.assert_array_equal(k_kernel, converted["k"]["kernel"])
    np.testing.assert_array_equal(v_kernel, values)


@settings(deadline=None, max_examples=50)
@given(
    heads=st.integers(1, 4),
    before=st.integers(0, 3),
    pairs=st.integers(1, 5),
    after=st.integers(0, 3),
    axis=st.integers(-3, 2),
    layouts=st.permutations(LAYOUTS),
)
def test_converting_there_and_back_changes_no_bit(heads, before, pairs, after, axis, layouts):
    head_dim = before + 2 * pairs + after
    shape = [2, 3, 4]
    shape[axis] = heads * head_dim
    kernel = np.random.default_rng(0).normal(size=shape)
    place = {"num_heads": heads, "axis": axis, "rotary_dim": 2 * pairs}
    there = rope.convert_layout(kernel, *layouts, start=before, **place)
    # Counted from the other end, the slice is the same one.
    back = rope.convert_layout(there, *reversed(layouts), start=before - head_dim, **place)
    np.testing.assert_array_equal(back, kernel)


@pytest.mark.parametrize("inputs", [(WIDTH,), ()], ids=["kernel", "bias"])
def test_conversion_is_the_permutation_of_llama_checkpoints(inputs):
    """`permute` of `convert_llama_weights_to_hf.py`, on PyTorch's [H * D, M] and [H * D]; then its inverse."""
    weight = np.random.default_rng(0).normal(size=(HEADS * HEAD_DIM, *inputs))

    def permute(weight, split):
        return weight.reshape(HEADS, *split, *inputs).swapaxes(1, 2).reshape(weight.shape)

    half = rope.convert_layout(weight, "interleaved", "half", num_heads=HEADS, axis=0)
    np.testing.assert_array_equal(half, permute(weight, (HEAD_DIM // 2, 2)))
    back = rope.convert_layout(weight, "half", "interleaved", num_heads=HEADS, axis=0)
    np.testing.assert_array_equal(back, permute(weight, (2, HEAD_DIM // 2)))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_heads": 1}, [0, 2, 4, 6, 1, 3, 5, 7]),
        ({"num_heads": 2}, [0, 2, 1, 3, 4, 6, 5, 7]),
        ({"num_heads": 1, "rotary_dim": 4}, [0, 2, 1, 3, 4, 5, 6, 7]),
        ({"num_heads": 1, "rotary_dim": 4, "start": 1}, [0, 1, 3, 2, 4, 5, 6, 7]),
        ({"num_heads": 1, "start": -6}, [0, 1, 2, 4, 6, 3, 5, 7]),
        ({"num_heads": 1, "start": -6, "rotary_dim": 4}, [0, 1, 2, 4, 3, 5, 6, 7]),
    ],
)
def test_interleaved_pairs_become_halves(arguments, expected):
    np.testing.assert_array_equal(rope.convert_layout(np.arange(8), "interleaved", "half", **arguments), expected)


def test_arrays_keep_their_library_and_dtype():
    for array in (np.ones(8, np.float16), jnp.ones(8, jnp.bfloat16)):
        converted = rope.convert_layout(array, *LAYOUTS, num_heads=1)
        assert type(converted) is type(array) and converted.dtype == array.dtype


def test_a_kernel_sharded_by_heads_stays_sharded_under_jit(weights):
    convert_keys = jax.jit(lambda kernel: rope.convert_layout(kernel, *LAYOUTS, num_heads=KV_HEADS))
    kernel = weights["k"]["kernel"]
    expected = rope.convert_layout(np.asarray(kernel), *LAYOUTS, num_heads=KV_HEADS)
    by_heads = PartitionSpec(None, "model")
    with jax.set_mesh(jax.make_mesh((KV_HEADS,), ("model",))):
        converted = convert_keys(jax.device_put(kernel, by_heads))
        assert jax.typeof(converted).sharding.spec == by_heads
    np.testing.assert_array_equal(converted, expected)


def test_a_layout_converts_to_itself_unchanged():
    np.testing.assert_array_equal(rope.convert_layout(np.arange(8), "half", "half", num_heads=1), np.arange(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "neox", "num_heads": 2}, "unknown layout 'neox'"),
        ({"num_heads": 5}, r"axis -1 of shape \(3, 16\) has 16 entries, not a multiple of 5 heads"),
        ({"num_heads": 0}, r"not a multiple of 0 heads"),
        ({"num_heads": 2, "rotary_dim": 3}, "start=0 and rotary_dim=3 must name .* even .* inside a head of 8"),
        ({"num_heads": 2, "rotary_dim": 10}, "start=0 and rotary_dim=10 must name"),
        ({"num_heads": 2, "rotary_dim": 0}, "start=0 and rotary_dim=0 must name"),
        ({"num_heads": 2, "rotary_dim": 4, "start": -2}, "start=-2 and rotary_dim=4 must name"),
        ({"num_heads": 2, "rotary_dim": 4, "start": -10}, "start=-10 and rotary_dim=4 must name"),
        ({"num_heads": 2, "start": 8}, "start=8 and rotary_dim=None must name"),
        ({"num_heads": 2, "start": 3}, "start=3 and rotary_dim=None must name"),
    ],
)
def test_impossible_conversions_are_refused(arguments, message):
    arguments = {"source": "half", "target": "interleaved"} | arguments
    with pytest.raises(ValueError, match=message):
        rope.convert_layout(np.ones((3, 16)), **arguments)
