"""Query heads beside the key-value heads that serve them."""

import jax.numpy as jnp

from roformer_jax.typing import Array


def group_heads(x_BHLD: Array, kv_heads: int) -> Array:
    """[B, H, L, D] -> [B, K, G, L, D]: each key-value head with its G query heads.

    An axis of size 1 is added by name: a reshape that adds one loses the sharding of a batch of one row.
    """
    B, H, L, D = x_BHLD.shape
    if kv_heads in (1, H):
        return jnp.expand_dims(x_BHLD, 1 if kv_heads == 1 else 2)
    return x_BHLD.reshape(B, kv_heads, H // kv_heads, L, D)


def merge_groups(x_BKGLD: Array) -> Array:
    """[B, K, G, L, D] -> [B, H, L, D], the inverse of `group_heads`."""
    B, K, G, L, D = x_BKGLD.shape
    if 1 in (K, G):
        return jnp.squeeze(x_BKGLD, 1 if K == 1 else 2)
    return x_BKGLD.reshape(B, K * G, L, D)
