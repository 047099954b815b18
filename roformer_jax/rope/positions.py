"""Positions of tokens in rows that hold several documents."""

import jax
import jax.numpy as jnp

from roformer_jax.typing import Array, Int


def packed_positions(segment_ids: Int[Array, "*batch length"]) -> Int[Array, "*batch length"]:
    """Returns each token's position in its own document, for rows into which documents are packed.

    Args:
        segment_ids: [..., L], constant over a document and different from its neighbours'; 0 marks padding.

    Returns:
        int32 [..., L]: 0 wherever the segment id changes along L, rising by one until the next change; 0 on padding.
    """
    axis = segment_ids.ndim - 1
    index = jax.lax.broadcasted_iota(jnp.int32, segment_ids.shape, axis)
    continues = segment_ids[..., 1:] == segment_ids[..., :-1]
    begins = jnp.pad(~continues, [(0, 0)] * axis + [(1, 0)], constant_values=True)
    start = jax.lax.cummax(jnp.where(begins, index, 0), axis=axis)
    return jnp.where(segment_ids == 0, 0, index - start)
