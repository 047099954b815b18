"""The rotation of queries and keys keeps the promises of the paper."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
# Error of a cosine or sine of the table (derived in test_rotations.py), and of a rotated unit vector: two products of
# table entries per channel, then two roundings.
TABLE_ERROR = (1.5 * np.pi + 2) * EPS
VECTOR_ERROR = 2 * TABLE_ERROR + 2 * EPS
HEAD_DIM = 16
FREQS = rope.frequencies(HEAD_DIM)
LAYOUTS = ("interleaved", "half")
HALVES_OF_PAIRS = np.arange(HEAD_DIM).reshape(-1, 2).T.ravel()
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)
positions_st = st.integers(-(2**30), 2**30 - 1)  # a position and a shift fit in int32 together


def unit_vectors(seed: int, *shape: int) -> jax.Array:
    vectors = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), jnp.float32)


def tables_for(length: int) -> rope.Rotation:
    return rope.rotation(jnp.arange(length), FREQS)


def equation_15(position: int, layout: str) -> np.ndarray:
    """The matrix R_m in float64, block diagonal for adjacent pairs."""
    matrix = np.zeros((HEAD_DIM, HEAD_DIM))
    for pair, frequency in enumerate(FREQS):
        block = [2 * pair, 2 * pair + 1] if layout == "interleaved" else [pair, pair + HEAD_DIM // 2]
        cos, sin = np.cos(position * frequency), np.sin(position * frequency)
        matrix[np.ix_(block, block)] = [[cos, -sin], [sin, cos]]
    return matrix


def equation_34(x, cos, sin, stack):
    """The paper's elementwise form, for adjacent pairs."""
    swapped = stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * stack([cos, cos], -1).reshape(x.shape[-2:]) + swapped * stack([sin, sin], -1).reshape(x.shape[-2:])


@both_layouts
def test_rotation_is_the_matrix_of_equation_15(layout):
    x = unit_vectors(0, 40, HEAD_DIM)
    expected = [equation_15(m, layout) @ np.asarray(x[m], np.float64) for m in range(40)]
    rotated = rope.rotate(x, tables_for(40), layout=layout, head_axis=None)
    np.testing.assert_allclose(rotated, expected, rtol=0, atol=VECTOR_ERROR)


def test_interleaved_rotation_is_equation_34():
    x = unit_vectors(0, 40, HEAD_DIM)
    angles = np.arange(40)[:, None] * FREQS
    expected = equation_34(np.asarray(x, np.float64), np.cos(angles), np.sin(angles), np.stack)
    rotated = rope.rotate(x, tables_for(40), layout="interleaved", head_axis=None)
    np.testing.assert_allclose(rotated, expected, rtol=0, atol=VECTOR_ERROR)


@jax.jit
def inner_products(q, k, positions_q, positions_k):
    """Scores of one query and one key under both layouts, at pairs of positions."""

    def score(layout):
        tables_q, tables_k = rope.rotation(positions_q, FREQS), rope.rotation(positions_k, FREQS)
        pair = rope.rotate_qk(q, k, tables_q, tables_k, layout=layout, head_axis=None)
        return (pair[0] * pair[1]).sum(-1)

    return jnp.stack([score(layout) for layout in LAYOUTS])


@settings(deadline=None, max_examples=50)
@given(m=positions_st, n=positions_st, shift=positions_st)
def test_inner_product_depends_on_relative_position(m, n, shift):
    q, k = (unit_vectors(seed, 1, HEAD_DIM).repeat(2, axis=0) for seed in (1, 2))
    scores = inner_products(q, k, jnp.array([m, m + shift]), jnp.array([n, n + shift]))
    np.testing.assert_allclose(scores[:, 0], scores[:, 1], rtol=0, atol=2e-6)  # |q| = |k| = 1


@both_layouts
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_tokens_decoded_one_by_one_get_the_bits_of_the_prefilled_ones(layout, dtype):
    x = unit_vectors(0, 1, 9, 3, HEAD_DIM).astype(dtype)
    positions = jnp.arange(9) + 2**20
    place = jax.jit(lambda x, positions: rope.rotate(x, rope.rotation(positions, FREQS), layout=layout))
    prefilled = place(x, positions)
    decoded = [place(x[:, at : at + 1], positions[at : at + 1]) for at in range(9)]
    np.testing.assert_array_equal(np.concatenate(decoded, 1), prefilled)


@both_layouts
def test_packed_documents_rotate_as_they_do_alone(layout):
    lengths, segment_ids = (3, 5, 2), jnp.array([[1, 1, 1, 2, 2, 2, 2, 2, 3, 3]])
    x = unit_vectors(0, 1, 10, 2, HEAD_DIM)
    packed = rope.rotate(x, rope.rotation(rope.packed_positions(segment_ids), FREQS), layout=layout)
    start = 0
    for length in lengths:
        alone = rope.rotate(x[:, start : start + length], tables_for(length), layout=layout)
        np.testing.assert_allclose(packed[:, start : start + length], alone, rtol=0, atol=2 * VECTOR_ERROR)
        start += length


@both_layouts
def test_rotation_preserves_the_norm(layout):
    x = unit_vectors(0, 4, 32, 2, HEAD_DIM)
    rotated = rope.rotate(x, rope.rotation(jnp.arange(32) * 524_287, FREQS), layout=layout)
    norms = np.linalg.norm(np.asarray(rotated, np.float64), axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=0, atol=np.sqrt(HEAD_DIM) * VECTOR_ERROR)


@both_layouts
def test_rotation_at_position_zero_changes_no_bit(layout):
    x = unit_vectors(0, 1, 3, HEAD_DIM)
    np.testing.assert_array_equal(rope.rotate(x, tables_for(1), layout=layout), x)


@both_layouts
def test_the_inverse_rotation_undoes_the_rotation(layout):
    x, tables = unit_vectors(0, 32, 2, HEAD_DIM), tables_for(32)
    back = rope.rotate(rope.rotate(x, tables, layout=layout), tables.inverse(), layout=layout)
    np.testing.assert_allclose(back, x, rtol=0, atol=4 * VECTOR_ERROR)


def test_the_layouts_differ_by_a_permutation_of_the_channels():
    x, tables = unit_vectors(0, 32, 2, HEAD_DIM), tables_for(32)
    interleaved = rope.rotate(x, tables, layout="interleaved")
    half = rope.rotate(x[..., HALVES_OF_PAIRS], tables, layout="half")
    np.testing.assert_allclose(half, interleaved[..., HALVES_OF_PAIRS], rtol=0, atol=2 * EPS)


def test_reading_pairs_and_writing_halves_is_the_rotation_and_the_permutation():
    x, tables = unit_vectors(0, 32, 2, HEAD_DIM), tables_for(32)
    interleaved = rope.rotate(x, tables, layout="interleaved")
    crossed = rope.rotate(x, tables, layout="interleaved_to_half")
    np.testing.assert_allclose(crossed, interleaved[..., HALVES_OF_PAIRS], rtol=0, atol=2 * EPS)
    back = rope.rotate(crossed, tables.inverse(), layout="half_to_interleaved")
    np.testing.assert_allclose(back, x, rtol=0, atol=4 * VECTOR_ERROR)


def test_every_axis_may_have_a_block_of_channels_of_its_own():
    x = unit_vectors(0, 5, 2, HEAD_DIM)
    freqs = rope.frequencies(HEAD_DIM // 2)
    positions = jnp.array([[0, 1], [2, 3], [4, 0], [1, 1], [9, 5]])
    tables = rope.rotation(positions, rope.axial_frequencies(freqs, freqs))
    rotated = rope.rotate(x, tables, layout="half", blocks=2)
    alone = [
        rope.rotate(x[..., 8 * axis :][..., :8], rope.rotation(positions[:, axis], freqs), layout="half")
        for axis in (0, 1)
    ]
    np.testing.assert_allclose(rotated, np.concatenate(alone, -1), rtol=0, atol=2 * VECTOR_ERROR)


def test_every_head_may_have_a_table_of_its_own():
    x = unit_vectors(0, 2, 5, 3, HEAD_DIM)
    freqs = rope.mixed_frequencies(jax.random.key(0), HEAD_DIM, 3)
    tables = rope.rotation(rope.grid_positions(1, 5), freqs)
    rotated = rope.rotate(x, tables, layout="interleaved", head_axis=None)
    for head in range(3):
        alone = rope.rotation(rope.grid_positions(1, 5), freqs[:, head])
        expected = rope.rotate(x[:, :, head], alone, layout="interleaved", head_axis=None)
        np.testing.assert_allclose(rotated[:, :, head], expected, rtol=0, atol=2 * VECTOR_ERROR)


@both_layouts
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_half_precision_and_turns_by_float32_angles(layout, dtype):
    x = jnp.ones((1, 2, 1, HEAD_DIM), dtype)
    tables = rope.rotation(jnp.array([4096, 4097]), FREQS)  # both are 4096 in bfloat16 and in float16
    rotated = rope.rotate(x, tables, layout=layout)
    assert rotated.dtype == dtype
    exact = rope.rotate(x.astype(jnp.float32), tables, layout=layout)
    # One rounding, half an eps; below the smallest normal number a step is absolute.
    limits = jnp.finfo(dtype)
    tolerance = {"rtol": float(limits.eps) / 2, "atol": float(limits.tiny) * float(limits.eps)}
    np.testing.assert_allclose(rotated.astype(jnp.float32), exact, **tolerance)
    assert (rotated[0, 0] != rotated[0, 1]).any()


@both_layouts
@pytest.mark.parametrize("table_shape", [(6,), (1, 6), (2, 6)])
def test_heads_may_lie_before_or_after_the_length(layout, table_shape):
    x_BLHD = unit_vectors(0, 2, 6, 3, HEAD_DIM)
    positions = jnp.arange(np.prod(table_shape)).reshape(table_shape)
    tables = rope.rotation(positions, FREQS)
    expected = np.stack([rope.rotate(x_BLHD[:, :, h], tables, layout=layout, head_axis=None) for h in range(3)], 2)
    rotated = rope.rotate(x_BLHD, tables, layout=layout)
    heads_first = rope.rotate(x_BLHD.swapaxes(1, 2), tables, layout=layout, head_axis=-3)
    chex.assert_trees_all_equal(np.asarray(rotated), expected, np.asarray(heads_first).swapaxes(1, 2))


def test_float64_is_computed_in_float64():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(7, HEAD_DIM)))
        tables = rope.rotation(jnp.arange(7), FREQS)
        rotated = rope.rotate(x, tables, layout="interleaved", head_axis=None)
        cos, sin = (np.asarray(table, np.float64) for table in tables)
        expected = equation_34(np.asarray(x), cos, sin, np.stack)
        assert rotated.dtype == jnp.float64
        np.testing.assert_allclose(rotated, expected, rtol=0, atol=16 * np.finfo(np.float64).eps)


@both_layouts
@pytest.mark.parametrize("start", [0, 3, 8, -8, -11])
def test_channels_outside_the_rotary_slice_pass_unchanged(layout, start):
    x = unit_vectors(0, 5, 2, HEAD_DIM)
    tables = rope.rotation(jnp.arange(5), rope.frequencies(8))
    rotated = rope.rotate(x, tables, layout=layout, start=start)
    inside = rope.rotate(x[..., start:][..., :8], tables, layout=layout)
    first = start % HEAD_DIM
    expected = np.concatenate([x[..., :first], inside, x[..., first + 8 :]], -1)
    np.testing.assert_array_equal(rotated, expected)


def test_queries_and_keys_may_differ_in_heads_and_positions():
    q, k = unit_vectors(0, 2, 6, 4, HEAD_DIM), unit_vectors(1, 2, 6, 2, HEAD_DIM)
    tables, tables_k = tables_for(6), rope.rotation(jnp.arange(6) + 9, FREQS)
    shared = rope.rotate_qk(q, k, tables, layout="half")
    chex.assert_trees_all_equal(shared, tuple(rope.rotate(x, tables, layout="half") for x in (q, k)))
    own = rope.rotate_qk(q, k, tables, tables_k, layout="half")
    chex.assert_trees_all_equal(own, (shared[0], rope.rotate(k, tables_k, layout="half")))


def test_vmap_and_scan_rotate_as_a_loop_does():
    x = unit_vectors(0, 3, 6, 2, HEAD_DIM)
    tables = rope.rotation(jnp.arange(18).reshape(3, 6), FREQS)

    def rotate(x, tables):
        return rope.rotate(x, tables, layout="half")

    expected = rotate(x, tables)
    np.testing.assert_allclose(jax.vmap(rotate)(x, tables), expected, rtol=0, atol=2 * EPS)
    _, scanned = jax.lax.scan(lambda _, row: (None, rotate(*row)), None, (x, tables))
    np.testing.assert_allclose(scanned, expected, rtol=0, atol=2 * EPS)


def test_one_compilation_serves_every_theta_and_every_position():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def rotate(x, positions, freqs):
        return rope.rotate(x, rope.rotation(positions, freqs), layout="half")

    for offset, theta in [(0, 10_000.0), (5_000, 10_000.0), (2**24, 500_000.0)]:
        rotate(unit_vectors(0, 8, 2, HEAD_DIM), jnp.arange(8) + offset, rope.frequencies(HEAD_DIM, theta))


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 6, 3, 16), {"layout": "neox"}, "unknown layout 'neox'; the layouts are 'interleaved', 'half', 'interl"),
        ((2, 6, 3, 16), {"layout": None}, "unknown layout None; the layouts are"),
        ((2, 6, 3, 16), {"implementation": "cuda"}, "unknown implementation 'cuda'; there are stack"),
        ((2, 6, 3, 16), {"blocks": 3}, "8 rotary pairs do not fall into 3 equal blocks"),
        ((2, 6, 3, 16), {"head_axis": 1}, r"head_axis must be one of \(-2, -3, None\) .* got 1"),
        ((2, 5, 3, 16), {}, r"\(2, 5, 3, 16\) .* positions of shape \(2, 5\).* made for positions of shape \(2, 6\)"),
        ((4, 6, 3, 16), {}, r"positions of shape \(4, 6\), .* made for positions of shape \(2, 6\)"),
        ((2, 6, 3, 16), {"head_axis": -3}, r"positions of shape \(2, 3\), .* made for positions of shape \(2, 6\)"),
        ((6, 16), {}, r"positions of shape \(\), .* made for positions of shape \(2, 6\)"),
        ((2, 6, 3, 12), {}, r"turns 16 channels \(8 pairs\) from channel 0 on, .* has 12 channels"),
        ((2, 6, 3, 16), {"start": 2}, r"turns 16 channels \(8 pairs\) from channel 2 on"),
        ((2, 6, 3, 16), {"start": -2}, r"turns 16 channels \(8 pairs\) from channel -2 on"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_shape(shape, arguments, message):
    tables = rope.rotation(jnp.zeros((2, 6), jnp.int32), FREQS)
    with pytest.raises(ValueError, match=message):
        rope.rotate(jnp.ones(shape), tables, **{"layout": "half"} | arguments)
