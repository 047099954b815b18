"""Packed rows restart their positions with every document."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax import rope

LENGTH = 12
packed_positions = jax.jit(rope.packed_positions)


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
