"""Softmax attention (equation 2) that makes the whole matrix of probabilities, and so can add anything to it."""

import math

import jax
import jax.numpy as jnp

from roformer_jax.attention.biases import shaw_values
from roformer_jax.attention.dropout import dropout
from roformer_jax.attention.heads import group_heads, merge_groups
from roformer_jax.attention.masks import MASK_VALUE, attention_mask
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray


def dense_attention(
    q_BLHD: Float[Array, "batch length heads head_dim"],
    k_BSKD: Float[Array, "batch key_length kv_heads head_dim"],
    v_BSKD: Float[Array, "batch key_length kv_heads head_dim"],
    *,
    segment_ids: Int[Array, "batch length"] | None,
    causal: bool,
    query_positions: Int[Array, "#batch length"] | None,
    bias: Float[Array, "#batch #heads #length #key_length"] | None,
    relative_values: Float[Array, "distances head_dim"] | None,
    dropout_rate: float,
    dropout_key: PRNGKeyArray | None,
) -> Float[Array, "batch length heads head_dim"]:
    """Returns all that `dot_product_attention` promises, and keeps the probabilities for the backward pass."""
    K = k_BSKD.shape[2]
    # Heads first, before the product: XLA on CPU is three times slower when it moves the axes inside the matmuls.
    q_BHLD, k_BKSD, v_BKSD = (jnp.swapaxes(array, 1, 2) for array in (q_BLHD, k_BSKD, v_BSKD))
    q_BKGLD = group_heads(q_BHLD, K)
    logits_BKGLS = jnp.einsum("BKGLD,BKSD->BKGLS", q_BKGLD, k_BKSD, preferred_element_type=jnp.float32)
    logits_BHLS = merge_groups(logits_BKGLS) / math.sqrt(q_BLHD.shape[3])
    mask = _mask(q_BLHD.shape[1], k_BSKD.shape[1], segment_ids, causal, query_positions)
    probs_BHLS = dropout(_probabilities(logits_BHLS, bias, mask), dropout_rate, dropout_key)
    probs_BKGLS = group_heads(probs_BHLS.astype(v_BSKD.dtype), K)
    out_BKGLD = jnp.einsum("BKGLS,BKSD->BKGLD", probs_BKGLS, v_BKSD, preferred_element_type=jnp.float32)
    out_BHLD = merge_groups(out_BKGLD)
    if relative_values is not None:
        m = jnp.arange(q_BLHD.shape[1], dtype=jnp.int32)[None] if query_positions is None else query_positions
        out_BHLD += shaw_values(probs_BHLS, relative_values, m)
    out_BLHD = jnp.swapaxes(out_BHLD, 1, 2).astype(q_BLHD.dtype)
    if segment_ids is None:
        return out_BLHD
    return jnp.where(segment_ids[:, :, None, None] != 0, out_BLHD, 0)  # the softmax of a fully masked row is uniform


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
