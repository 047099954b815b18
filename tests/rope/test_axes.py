"""Several position axes: each section map is that of the model it comes from, and scores depend on offsets alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
TABLE_ERROR = (1.5 * np.pi + 2) * EPS  # derived in test_rotations.py
HEADS, HEAD_DIM = 3, 16
# Two rotated unit vectors of two such tables each, their products and the sum over the channels, for two scores.
LAW_ERROR = 2 * (4 * TABLE_ERROR + (4 + HEAD_DIM) * EPS)
AXIAL = rope.axial_frequencies(rope.frequencies(HEAD_DIM // 2, 100.0), rope.frequencies(HEAD_DIM // 2, 100.0))
MIXED = rope.mixed_frequencies(jax.random.key(0), HEAD_DIM, HEADS)
MAPS = (rope.contiguous_sections, rope.strided_sections, rope.wrapped_sections)
sizes_st = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
offsets_st = st.lists(st.integers(-(2**20), 2**20), min_size=2, max_size=2)


def qwen2_vl(angles_ALF, sizes):
    """`Qwen2VLRotaryEmbedding.recomposition_frequencies` of transformers 5.23."""
    parts = np.split(angles_ALF, np.cumsum(sizes)[:-1], axis=-1)
    return np.concatenate([part[axis % 3] for axis, part in enumerate(parts)], axis=-1)


def qwen3_vl(angles_ALF, sizes):
    """`Qwen3VLTextRotaryEmbedding.recomposition_frequencies` of transformers 5.23."""
    merged = angles_ALF[0].copy()
    for axis in (1, 2):
        pairs = slice(axis, sizes[axis] * 3, 3)
        merged[..., pairs] = angles_ALF[axis][..., pairs]
    return merged


def glm(angles_ALF, sizes):
    """The map that sglang's `test_mrope_axis_map.py` pins for GLM's sections."""
    assert sizes == (8, 12, 12)
    return angles_ALF[[0, 1, 2] * 8 + [1, 1, 2, 1, 1, 2, 2, 2], :, np.arange(32)].T


@pytest.mark.parametrize(
    ("sections", "reference", "sizes", "theta"),
    [
        (rope.contiguous_sections, qwen2_vl, (16, 24, 24), 1_000_000.0),
        (rope.contiguous_sections, qwen2_vl, (8, 12, 12), 10_000.0),
        (rope.strided_sections, qwen3_vl, (24, 20, 20), 5_000_000.0),
        (rope.strided_sections, qwen3_vl, (11, 11, 10), 10_000_000.0),
        (rope.wrapped_sections, glm, (8, 12, 12), 10_000.0),
    ],
)
def test_each_section_map_rotates_as_the_model_it_comes_from(sections, reference, sizes, theta):
    freqs = rope.frequencies(2 * sum(sizes), theta)
    positions_LA = np.random.default_rng(0).integers(0, 4096, (20, 3))
    angles_LF = reference(positions_LA.T[..., None] * freqs, sizes)
    tables = rope.rotation(positions_LA, rope.per_axis(freqs, sections(sizes)))
    tolerance = TABLE_ERROR + 2 * np.pi * 4096 * 2.0**-33  # half a phase step per token
    np.testing.assert_allclose(tables.cos, np.cos(angles_LF), rtol=0, atol=tolerance)
    np.testing.assert_allclose(tables.sin, np.sin(angles_LF), rtol=0, atol=tolerance)


@pytest.mark.parametrize("sections", MAPS)
def test_text_is_rotated_as_by_one_axis(sections):
    freqs = rope.frequencies(128)
    several = rope.rotation(np.arange(50)[:, None].repeat(3, axis=1), rope.per_axis(freqs, sections((24, 20, 20))))
    one = rope.rotation(np.arange(50), freqs)
    np.testing.assert_array_equal(several.cos, one.cos)
    np.testing.assert_array_equal(several.sin, one.sin)


@settings(deadline=None, max_examples=50)
@given(sizes=sizes_st)
def test_every_axis_gets_its_pairs(sizes):
    np.testing.assert_array_equal(np.bincount(rope.contiguous_sections(sizes)), sizes)
    np.testing.assert_array_equal(np.bincount(rope.wrapped_sections(sizes)), sizes)


@settings(deadline=None, max_examples=50)
@given(sizes=sizes_st)
def test_strided_sections_place_every_pair_or_refuse(sizes):
    axes, pairs = len(sizes), sum(sizes)
    fits = all(size <= len(range(axis, pairs, axes)) for axis, size in enumerate(sizes) if axis)
    if fits:
        np.testing.assert_array_equal(np.bincount(rope.strided_sections(sizes)), sizes)
    else:
        with pytest.raises(ValueError, match="places for it"):
            rope.strided_sections(sizes)


@settings(deadline=None, max_examples=50)
@given(sizes=sizes_st)
def test_wrapped_sections_pass_a_turn_only_over_full_axes(sizes):
    given_out = np.zeros(len(sizes), int)
    for pair, axis in enumerate(rope.wrapped_sections(sizes)):
        turn = pair % len(sizes)
        passed_over = [(turn + step) % len(sizes) for step in range((axis - turn) % len(sizes))]
        assert all(given_out[other] == sizes[other] for other in passed_over)
        given_out[axis] += 1


def test_axial_frequencies_are_those_of_rope_vit():
    """`compute_axial_cis` of naver-ai/rope-vit: the angles of the columns, then those of the rows."""
    rows, columns = 3, 5
    freqs = 1 / 100.0 ** (np.arange(0, HEAD_DIM, 4) / HEAD_DIM)
    token = np.arange(rows * columns)
    expected = np.concatenate([np.outer(token % columns, freqs), np.outer(token // columns, freqs)], axis=-1)
    angles = rope.grid_positions(rows, columns)[:, ::-1] @ AXIAL
    np.testing.assert_allclose(angles, expected, rtol=4 * np.finfo(np.float64).eps)


@jax.jit
def scores(q_HD, k_HD, positions_LA, freqs):
    """Scores of one query at every other position with one key at the next, [L / 2, H]."""
    tables = rope.rotation(positions_LA, freqs)
    x_LHD = jnp.stack([q_HD, k_HD] * (positions_LA.shape[0] // 2))
    rotated = rope.rotate(x_LHD, tables, layout="interleaved", head_axis=None if freqs.ndim == 3 else -2)
    return (rotated[::2] * rotated[1::2]).sum(-1)


@pytest.mark.parametrize("freqs", [AXIAL, MIXED], ids=["axial", "mixed"])
@settings(deadline=None, max_examples=30)
@given(m=offsets_st, n=offsets_st, shift=offsets_st)
def test_scores_depend_on_the_offsets_of_both_axes_alone(freqs, m, n, shift):
    q, k = np.random.default_rng(0).normal(size=(2, HEADS, HEAD_DIM))
    q, k = (jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32) for x in (q, k))
    m, n, shift = np.array(m), np.array(n), np.array(shift)
    here, there = scores(q, k, jnp.array([m, n, m + shift, n + shift]), freqs)
    np.testing.assert_allclose(here, there, rtol=0, atol=LAW_ERROR)


@pytest.mark.parametrize("freqs", [AXIAL, MIXED], ids=["axial", "mixed"])
@pytest.mark.parametrize("moved", [[0, 1], [1, 0]])
def test_scores_do_depend_on_the_offset_of_each_axis(freqs, moved):
    x = jnp.ones((HEADS, HEAD_DIM)) / HEAD_DIM**0.5
    here, there = scores(x, x, jnp.array([[4, 7], [4, 7], [4, 7], [4 + moved[0], 7 + moved[1]]]), freqs)
    assert (here - there > 100 * LAW_ERROR).all()


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0])
def test_mixed_frequencies_see_all_directions_alike(angle):
    """Of two pairs with one magnitude, the angles are those of a vector as long as the step in the plane."""
    magnitudes = 10.0 ** (-4 * np.arange(HEAD_DIM // 4) / HEAD_DIM)
    step = 3 * np.array([np.cos(angle), np.sin(angle)])
    along_HF, across_HF = np.split(np.einsum("A,AHF->HF", step, np.asarray(MIXED, np.float64)), 2, axis=-1)
    lengths = np.hypot(along_HF, across_HF)
    # A cosine or sine (two eps), a magnitude (half an eps) and their product (half an eps), on two axes.
    np.testing.assert_allclose(lengths, np.tile(3 * magnitudes, (HEADS, 1)), rtol=6 * EPS)


def test_mixed_frequencies_differ_by_head_and_by_key():
    assert MIXED.shape == (2, HEADS, HEAD_DIM // 2) and MIXED.dtype == jnp.float32
    directions = np.arctan2(*MIXED[::-1, :, 0])
    assert len(np.unique(directions)) == HEADS
    np.testing.assert_array_equal(rope.mixed_frequencies(jax.random.key(0), HEAD_DIM, HEADS), MIXED)
    assert (rope.mixed_frequencies(jax.random.key(1), HEAD_DIM, HEADS) != MIXED).all()


def test_mixed_frequencies_are_learned():
    x_LHD = jnp.ones((1, HEADS, HEAD_DIM))

    def first_channels(freqs):
        tables = rope.rotation(jnp.array([[2, 3]]), freqs, exact=False)
        return rope.rotate(x_LHD, tables, layout="interleaved", head_axis=None)[..., ::2].sum()

    angles = np.einsum("A,AHF->HF", [2, 3], np.asarray(MIXED, np.float64))
    expected = np.array([2, 3])[:, None, None] * (-np.sin(angles) - np.cos(angles))
    # An angle of at most 5 radians is rounded three times; its cosine and sine (two eps each) are multiplied by 3.
    np.testing.assert_allclose(jax.grad(first_channels)(MIXED), expected, rtol=0, atol=3 * (2 * 7.5 + 5) * EPS)


def test_host_spectra_stay_exact_and_traced_ones_are_traced():
    freqs, sections = rope.frequencies(HEAD_DIM), rope.wrapped_sections((3, 5))
    for on_host, traced in (
        (rope.per_axis(freqs, sections), jax.jit(lambda freqs: rope.per_axis(freqs, sections))(freqs)),
        (rope.axial_frequencies(freqs, freqs), jax.jit(rope.axial_frequencies)(freqs, freqs)),
    ):
        assert on_host.dtype == np.float64 and traced.dtype == jnp.float32
        np.testing.assert_array_equal(on_host.astype(np.float32), traced)


@pytest.mark.parametrize("sections", MAPS)
@pytest.mark.parametrize("sizes", [(), (4, 0, 4), (4, -1)])
def test_an_axis_without_pairs_is_refused(sections, sizes):
    with pytest.raises(ValueError, match=r"positive number of rotary pairs, got sections \("):
        sections(sizes)


def test_sections_that_do_not_fit_their_stride_are_refused():
    with pytest.raises(
        ValueError, match=r"\(1, 1, 30\) give axis 2 30 pairs, but 32 pairs .* 3 axes .* only 10 places"
    ):
        rope.strided_sections((1, 1, 30))


def test_sections_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"freqs of shape \(64,\) and axis_of_pair of shape \(60,\) .* add up"):
        rope.per_axis(rope.frequencies(128), rope.contiguous_sections((20, 20, 20)))
    with pytest.raises(ValueError, match="counts axes from 0, got -1"):
        rope.per_axis(rope.frequencies(4), np.array([0, -1]))


@pytest.mark.parametrize(("dim", "heads"), [(6, 2), (0, 2), (8, 0)])
def test_mixed_frequencies_of_an_impossible_size_are_refused(dim, heads):
    with pytest.raises(ValueError, match=f"multiple of 4 and num_heads positive, got {dim} and {heads}"):
        rope.mixed_frequencies(jax.random.key(0), dim, heads)
