"""Softmax attention (equation 2) over dense or packed rows."""

import math

import jax
import jax.numpy as jnp

from roformer_jax.attention.biases import shaw_values
from roformer_jax.attention.dropout import dropout
from roformer_jax.attention.masks import MASK_VALUE, attention_mask
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray


def dot_product_attention(
    q_BLHD: Float[Array, "batch length heads head_dim"],
    k_BSKD: Float[Array, "batch key_length kv_heads head_dim"],
    v_BSKD: Float[Array, "batch key_length kv_heads head_dim"],
    *,
    segment_ids: Int[Array, "batch length"] | None = None,
    causal: bool = False,
    query_positions: Int[Array, "#batch length"] | None = None,
    bias: Float[Array, "#batch #heads #length #key_length"] | None = None,
    relative_values: Float[Array, "distances head_dim"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """Returns `softmax(q k^T / sqrt(D) + bias) v`, every query against the keys it may see (equation 2).

    Logits, softmax and sums are float32; the probabilities take the dtype of `v` for the second product.

    Args:
        q_BLHD: queries, already rotated.
        k_BSKD: keys, already rotated; each of the K heads serves H / K consecutive query heads.
        v_BSKD: values.
        segment_ids: self-attention over packed rows: tokens see only their own segment. Id 0 is padding, which no token
            sees, and whose own rows are exactly zero.
        causal: no query sees a later key.
        query_positions: m, where each query stands among the keys, which stand at 0, .., S - 1; None is self-attention,
            0, .., L - 1. With `causal`, queries may continue a cache of keys.
        bias: added to the scaled logits.
        relative_values: the table of a vector for each clipped distance -k, .., k that is added to the values of keys
            at that distance (`shaw_values`).
        dropout_rate: fraction of probabilities set to zero, the rest scaled up; in [0, 1).
        dropout_key: randomness of the dropout; without a key nothing is dropped.

    Raises:
        ValueError: if K does not divide H, a mask is asked for with L != S, segments with query positions, or the rate
            is out of range.
    """
    if segment_ids is not None and query_positions is not None:
        raise ValueError("segment_ids are for self-attention, query_positions for queries that continue a text")
    _check(q_BLHD.shape, k_BSKD.shape, segment_ids is not None or (causal and query_positions is None), dropout_rate)
    K = k_BSKD.shape[2]
    # Heads first, before the product: XLA on CPU is three times slower when it moves the axes inside the matmuls.
    q_BHLD, k_BKSD, v_BKSD = (jnp.swapaxes(array, 1, 2) for array in (q_BLHD, k_BSKD, v_BSKD))
    q_BKGLD = _group_heads(q_BHLD, K)
    logits_BKGLS = jnp.einsum("BKGLD,BKSD->BKGLS", q_BKGLD, k_BKSD, preferred_element_type=jnp.float32)
    logits_BHLS = _merge_groups(logits_BKGLS) / math.sqrt(q_BLHD.shape[3])
    mask = _mask(q_BLHD.shape[1], k_BSKD.shape[1], segment_ids, causal, query_positions)
    probs_BHLS = dropout(_probabilities(logits_BHLS, bias, mask), dropout_rate, dropout_key)
    probs_BKGLS = _group_heads(probs_BHLS.astype(v_BSKD.dtype), K)
    out_BKGLD = jnp.einsum("BKGLS,BKSD->BKGLD", probs_BKGLS, v_BKSD, preferred_element_type=jnp.float32)
    out_BHLD = _merge_groups(out_BKGLD)
    if relative_values is not None:
        m = jnp.arange(q_BLHD.shape[1], dtype=jnp.int32)[None] if query_positions is None else query_positions
        out_BHLD += shaw_values(probs_BHLS, relative_values, m)
    out_BLHD = jnp.swapaxes(out_BHLD, 1, 2).astype(q_BLHD.dtype)
    if segment_ids is None:
        return out_BLHD
    return jnp.where(segment_ids[:, :, None, None] != 0, out_BLHD, 0)  # the softmax of a fully masked row is uniform


def _check(q_shape: tuple[int, ...], k_shape: tuple[int, ...], masked: bool, dropout_rate: float) -> None:
    """Raises a ValueError with the offending values."""
    (_, L, H, _), (_, S, K, _) = q_shape, k_shape
    if H % K:
        raise ValueError(f"{H} query heads cannot share {K} key-value heads: {H} is not a multiple of {K}")
    if masked and L != S:
        raise ValueError(f"causal and segment_ids are for self-attention, but there are {L} queries and {S} keys")
    if not 0.0 <= dropout_rate < 1.0:
        raise ValueError(f"dropout_rate must be at least 0 and below 1, got {dropout_rate}")


def _group_heads(x_BHLD: Array, kv_heads: int) -> Array:
    """[B, H, L, D] -> [B, K, G, L, D]: each key-value head with its G query heads.

    An axis of size 1 is added by name: a reshape that adds one loses the sharding of a batch of one row.
    """
    B, H, L, D = x_BHLD.shape
    if kv_heads in (1, H):
        return jnp.expand_dims(x_BHLD, 1 if kv_heads == 1 else 2)
    return x_BHLD.reshape(B, kv_heads, H // kv_heads, L, D)


def _merge_groups(x_BKGLD: Array) -> Array:
    """[B, K, G, L, D] -> [B, H, L, D], the inverse of `_group_heads`."""
    B, K, G, L, D = x_BKGLD.shape
    if 1 in (K, G):
        return jnp.squeeze(x_BKGLD, 1 if K == 1 else 2)
    return x_BKGLD.reshape(B, K * G, L, D)


def _mask(
    length: int, key_length: int, segment_ids: Array | None, causal: bool, query_positions: Array | None
) -> Array | None:
    """Booleans [#B, 1, L, S], True where a query may see a key; None where all see all."""
    if query_positions is not None and causal:
        keys_S = jnp.arange(key_length, dtype=query_positions.dtype)
        return keys_S[None, None, None, :] <= query_positions[:, None, :, None]
    if causal or segment_ids is not None:
        return attention_mask(length, segment_ids=segment_ids, causal=causal)
    return None


def _probabilities(logits_BHLS: Array, bias: Array | None, mask: Array | None) -> Array:
    """Adds the bias, hides the masked keys and normalises, in float32."""
    if bias is not None:
        logits_BHLS += bias.astype(jnp.float32)
    if mask is not None:
        logits_BHLS = jnp.where(mask, logits_BHLS, MASK_VALUE)
    return jax.nn.softmax(logits_BHLS, axis=-1)
