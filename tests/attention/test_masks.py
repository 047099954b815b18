"""Masks hide other segments, padding and the future."""

import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.attention import MASK_VALUE, attention_mask

SEGMENT_IDS = [[1, 1, 2, 2, 0], [0, 3, 3, 3, 5]]


@pytest.mark.parametrize("causal", [False, True])
def test_a_query_sees_the_keys_of_its_segment_and_no_padding(causal):
    def sees(row, query, key):
        ids = SEGMENT_IDS[row]
        return ids[query] == ids[key] != 0 and not (causal and key > query)

    mask = attention_mask(5, segment_ids=jnp.array(SEGMENT_IDS), causal=causal)
    expected = [[[[sees(row, query, key) for key in range(5)] for query in range(5)]] for row in range(2)]
    np.testing.assert_array_equal(mask, expected)


def test_a_causal_mask_alone_is_a_lower_triangle():
    np.testing.assert_array_equal(attention_mask(4, causal=True), np.tril(np.ones((1, 1, 4, 4), bool)))


def test_the_mask_value_hides_a_key_and_stays_finite_in_bfloat16():
    value = jnp.asarray(MASK_VALUE, jnp.bfloat16)
    assert jnp.isfinite(value + value / 4)
    assert jnp.exp(value) == 0
