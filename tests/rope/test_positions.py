"""Positions are those the tokens would have alone, in every way of putting rows together or taking them apart."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
LENGTH, HEADS, HEAD_DIM = 12, 2, 16
FREQS = rope.frequencies(HEAD_DIM)
# Two rotated unit vectors, whose table entries are off by (1.5 pi + 2) eps (derived in test_rotations.py), and the
# rounding of their products and of the sum over the channels.
SCORE_ERROR = (4 * (1.5 * np.pi + 2) + 4 + HEAD_DIM) * EPS
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
packed_positions, padded_positions = jax.jit(rope.packed_positions), jax.jit(rope.padded_positions)
traced_lengths = jax.jit(rope.positions_from_lengths, static_argnames="total")
traced_cu_seqlens = jax.jit(rope.positions_from_cu_seqlens, static_argnames="total")


def unit_vectors(seed: int, *shape: int) -> jax.Array:
    vectors = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), jnp.float32)


@jax.jit
def rotate(x_BLHD, positions_BL):
    return rope.rotate(x_BLHD, rope.rotation(positions_BL, FREQS), layout="half")


def scores(q_BLHD, k_BSHD):
    return np.einsum("BLHD,BSHD->BHLS", np.asarray(q_BLHD, np.float64), np.asarray(k_BSHD, np.float64))


def brute_force(segment_ids):
    positions = []
    for index, segment in enumerate(segment_ids):
        continues = index > 0 and segment == segment_ids[index - 1]
        positions.append(positions[-1] + 1 if continues and segment else 0)
    return positions


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 3), min_size=LENGTH, max_size=LENGTH), min_size=2, max_size=2))
def test_positions_count_from_the_start_of_the_segment(segment_ids):
    positions = packed_positions(jnp.array(segment_ids, jnp.int32))
    assert positions.dtype == jnp.int32
    np.testing.assert_array_equal(positions, [brute_force(row) for row in segment_ids])


def test_padding_on_either_side_is_at_position_zero():
    np.testing.assert_array_equal(packed_positions(jnp.array([0, 0, 1, 1, 2, 2, 2, 0, 0])), [0, 0, 0, 1, 0, 1, 2, 0, 0])


class TestSequencesEndToEnd:
    @settings(deadline=None, max_examples=50)
    @given(lengths=st.lists(st.integers(0, 3), min_size=4, max_size=4))
    def test_positions_are_those_of_each_sequence_alone(self, lengths):
        expected = np.concatenate([*map(np.arange, lengths), np.zeros(LENGTH - sum(lengths))])
        cu_seqlens = np.cumsum([0, *lengths])
        for positions in (
            traced_lengths(jnp.array(lengths), total=LENGTH),
            traced_cu_seqlens(jnp.asarray(cu_seqlens), total=LENGTH),
            rope.positions_from_lengths(np.array(lengths), total=LENGTH),
            rope.positions_from_cu_seqlens(cu_seqlens, total=LENGTH),
        ):
            assert positions.dtype == jnp.int32
            np.testing.assert_array_equal(positions, expected)

    def test_lengths_and_segment_ids_agree(self):
        lengths = np.array([3, 1, 5, 2])
        segment_ids = np.pad(np.repeat([1, 2, 3, 4], lengths), (0, 1))
        np.testing.assert_array_equal(
            rope.positions_from_lengths(lengths, total=LENGTH), packed_positions(jnp.asarray(segment_ids))
        )

    def test_sequences_rotate_as_they_do_alone(self):
        lengths = (3, 7, 2)
        x = unit_vectors(0, 1, LENGTH, HEADS, HEAD_DIM)
        together = rotate(x, rope.positions_from_lengths(np.array(lengths), total=LENGTH)[None])
        apart = [rotate(part, jnp.arange(part.shape[1])[None]) for part in np.split(x, np.cumsum(lengths)[:-1], axis=1)]
        np.testing.assert_allclose(together, np.concatenate(apart, axis=1), rtol=0, atol=SCORE_ERROR)

    def test_one_compilation_serves_all_lengths(self):
        @jax.jit
        @chex.assert_max_traces(n=1)
        def positions(lengths):
            return rope.positions_from_lengths(lengths, total=LENGTH)

        for lengths in ([3, 4], [0, 12], [1, 1]):
            positions(jnp.array(lengths))

    @pytest.mark.parametrize(
        ("cu_seqlens", "total", "message"),
        [
            ([0, 4, 9], 8, r"end by total=8, got \[0, 4, 9\]"),
            ([1, 4], 8, r"begin with 0, .* got \[1, 4\]"),
            ([0, 4, 3], 8, r"never fall .* got \[0, 4, 3\]"),
            ([], 8, r"must be positive, got 8 and \(0,\)"),
            ([0, 4], 0, r"must be positive, got 0 and \(2,\)"),
        ],
    )
    def test_impossible_boundaries_are_refused(self, cu_seqlens, total, message):
        with pytest.raises(ValueError, match=message):
            rope.positions_from_cu_seqlens(np.array(cu_seqlens, int), total=total)

    def test_lengths_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"end by total=8, got \[0, 4, 9\]"):
            rope.positions_from_lengths(np.array([4, 5]), total=8)


class TestPadding:
    @settings(deadline=None, max_examples=20)
    @given(
        tokens=st.lists(st.integers(0, LENGTH), min_size=2, max_size=2),
        left=st.booleans(),
        dtype=st.sampled_from([bool, np.int32]),
    )
    def test_positions_are_those_of_an_attention_mask_in_transformers(self, tokens, left, dtype):
        mask = (
            np.arange(LENGTH) >= LENGTH - np.array(tokens)[:, None]
            if left
            else np.arange(LENGTH) < np.array(tokens)[:, None]
        )
        position_ids = np.cumsum(mask, axis=-1) - 1
        position_ids[mask == 0] = 0
        positions = padded_positions(jnp.asarray(mask.astype(dtype)))
        assert positions.dtype == jnp.int32
        np.testing.assert_array_equal(positions, position_ids)

    def test_a_row_padded_on_the_left_has_the_scores_it_has_alone(self):
        tokens, pad = 7, LENGTH - 7
        q, k = (unit_vectors(seed, 1, LENGTH, HEADS, HEAD_DIM) for seed in (0, 1))
        positions = rope.padded_positions(jnp.arange(LENGTH)[None] >= pad)
        padded = scores(rotate(q, positions), rotate(k, positions))[..., pad:, pad:]
        alone = scores(*(rotate(x[:, pad:], jnp.arange(tokens)[None]) for x in (q, k)))
        np.testing.assert_allclose(padded, alone, rtol=0, atol=2 * SCORE_ERROR)


class TestDecoding:
    def test_rows_continue_where_their_caches_end(self):
        positions = jax.jit(rope.decode_positions, static_argnums=1)(jnp.array([3, 0, 2**30]), 2)
        assert positions.dtype == jnp.int32
        np.testing.assert_array_equal(positions, [[3, 4], [0, 1], [2**30, 2**30 + 1]])

    def test_one_length_may_serve_all_rows(self):
        np.testing.assert_array_equal(rope.decode_positions(np.array(5), 3), [5, 6, 7])

    def test_decoding_one_by_one_gives_the_bits_of_the_prefill(self):
        q = unit_vectors(0, 3, LENGTH, HEADS, HEAD_DIM)
        offsets = jnp.array([0, 77, 2**24 + 1])

        @jax.jit
        def tables_and_rotated(q, cached):
            tables = rope.rotation(rope.decode_positions(cached, q.shape[1]), FREQS)
            return tables, rope.rotate(q, tables, layout="half")

        prefill = tables_and_rotated(q, offsets)
        steps = [tables_and_rotated(q[:, step : step + 1], offsets + step) for step in range(LENGTH)]
        chex.assert_trees_all_equal(jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *steps), prefill)

    def test_no_new_token_is_refused(self):
        with pytest.raises(ValueError, match="positive number of new tokens, got 0"):
            rope.decode_positions(np.array([1, 2]), 0)


class TestGrids:
    @pytest.mark.parametrize("sizes", [(5,), (2, 3), (2, 3, 4)])
    @pytest.mark.parametrize("class_tokens", [0, 2])
    def test_cells_are_listed_row_by_row_after_the_class_tokens(self, sizes, class_tokens):
        positions = rope.grid_positions(*sizes, class_tokens=class_tokens)
        assert positions.dtype == np.int32
        np.testing.assert_array_equal(positions[:class_tokens], np.zeros((class_tokens, len(sizes))))
        np.testing.assert_array_equal(positions[class_tokens:], list(np.ndindex(sizes)))

    def test_class_tokens_are_not_rotated(self):
        x = unit_vectors(0, 7, HEADS, HEAD_DIM)
        freqs = rope.axial_frequencies(rope.frequencies(HEAD_DIM // 2), rope.frequencies(HEAD_DIM // 2))
        tables = rope.rotation(rope.grid_positions(2, 3, class_tokens=1), freqs)
        rotated = rope.rotate(x, tables, layout="half")
        np.testing.assert_array_equal(rotated[0], x[0])
        assert (rotated[2:] != x[2:]).any(axis=(1, 2)).all()

    @pytest.mark.parametrize(("sizes", "class_tokens"), [((), 0), ((2, 0), 0), ((2, 2), -1)])
    def test_an_impossible_grid_is_refused(self, sizes, class_tokens):
        with pytest.raises(ValueError, match=rf"got sizes {re.escape(str(sizes))} and {class_tokens}"):
            rope.grid_positions(*sizes, class_tokens=class_tokens)


class TestZigzag:
    LENGTH, SHARDS = 64, 8

    @pytest.fixture
    def order(self):
        return rope.zigzag_positions(self.LENGTH, self.SHARDS)

    @pytest.fixture
    def sharded(self):
        return NamedSharding(jax.make_mesh((self.SHARDS,), ("sequence",)), PartitionSpec("sequence"))

    def test_shard_s_holds_chunk_s_and_its_mirror(self, order):
        assert order.dtype == np.int32
        chunks = np.split(np.arange(self.LENGTH), 2 * self.SHARDS)
        expected = [np.concatenate([chunks[s], chunks[2 * self.SHARDS - 1 - s]]) for s in range(self.SHARDS)]
        np.testing.assert_array_equal(order.reshape(self.SHARDS, -1), expected)

    def test_causal_attention_is_balanced(self, order):
        keys_seen = (order + 1).reshape(self.SHARDS, -1).sum(axis=1)
        assert (keys_seen == keys_seen[0]).all()

    def test_the_order_and_its_argsort_undo_each_other(self, order):
        tokens = np.arange(self.LENGTH) ** 2
        np.testing.assert_array_equal(tokens[order][np.argsort(order)], tokens)

    @pytest.mark.parametrize("mapped", [False, True], ids=["jit", "shard_map"])
    def test_a_sharded_rotation_needs_no_collective(self, order, sharded, mapped):
        def rotate(x_LHD, positions_L):
            return rope.rotate(x_LHD, rope.rotation(positions_L, FREQS), layout="half")

        x = unit_vectors(0, self.LENGTH, HEADS, HEAD_DIM)
        expected = rotate(x, jnp.arange(self.LENGTH))
        if mapped:
            function = jax.shard_map(
                rotate, mesh=sharded.mesh, in_specs=(sharded.spec, sharded.spec), out_specs=sharded.spec
            )
        else:
            function = rotate
        arguments = jax.device_put((x[order], order), sharded)
        compiled = jax.jit(function, out_shardings=sharded).lower(*arguments).compile()
        assert not collectives(compiled)
        np.testing.assert_allclose(
            np.asarray(compiled(*arguments))[np.argsort(order)], expected, rtol=0, atol=SCORE_ERROR
        )

    def test_going_back_to_the_natural_order_does_need_one(self, order, sharded):
        """The check above sees a collective where there is one."""
        x = jax.device_put(unit_vectors(0, self.LENGTH, HEAD_DIM), sharded)
        back = jax.jit(lambda x: x.at[np.argsort(order)].get(out_sharding=sharded))
        assert collectives(back.lower(x).compile())

    @pytest.mark.parametrize(("length", "shards"), [(24, 8), (0, 8), (16, 0), (16, -1)])
    def test_a_length_that_cannot_be_dealt_is_refused(self, length, shards):
        with pytest.raises(ValueError, match=rf"multiple of 2 \* shards, got length {length} and {shards} shards"):
            rope.zigzag_positions(length, shards)


def collectives(compiled):
    return [name for name in COLLECTIVES if name in compiled.as_text()]
