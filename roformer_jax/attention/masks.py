"""Which query may see which key, as booleans."""

import jax.numpy as jnp

from roformer_jax.typing import Array, Bool, Int

MASK_VALUE = -0.7 * float(jnp.finfo(jnp.bfloat16).max)  # logit of a hidden key: finite in bfloat16 even after a bias


def attention_mask(
    length: int, *, segment_ids: Int[Array, "batch {length}"] | None = None, causal: bool = False
) -> Bool[Array, "#batch 1 {length} {length}"]:
    """Returns True where the query (third axis) may see the key (last axis), for every head alike.

    Args:
        length: tokens of a row, L.
        segment_ids: [B, L]; a query sees only the keys of its own segment, and padding (id 0) neither sees nor is seen.
        causal: a query sees no later key.
    """
    mask = jnp.ones((1, 1, length, length), jnp.bool_)
    if causal:
        mask = jnp.tril(mask)
    if segment_ids is not None:
        query_ids, key_ids = segment_ids[:, None, :, None], segment_ids[:, None, None, :]
        mask &= (query_ids == key_ids) & (key_ids != 0)
    return mask
