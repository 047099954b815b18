"""Exact softmax attention (equation 2), a block of queries and keys at a time: memory linear in the length.

The softmax over blocks of keys is that of Milakov and Gimelshein (arXiv 1805.02867); the backward pass, which makes the
probabilities again from the logarithm of their denominator, that of FlashAttention (arXiv 2205.14135).
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from roformer_jax.attention.dropout import dropout
from roformer_jax.attention.heads import group_heads, merge_groups
from roformer_jax.attention.masks import MASK_VALUE
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray

WHOLE_ROW = 512  # tokens: up to here a row is one block, and its matrix of probabilities is made, but not kept
ATTENTION_OUTPUT = "attention_output"  # of `jax.checkpoint_policies.save_only_these_names`
BLOCK = 256  # tokens of a block of longer rows: about the fastest on a CPU, with and without dropout


class _Rules(NamedTuple):
    """What is known before the program runs."""

    causal: bool
    dropout_rate: float
    block: int
    """Tokens of a block."""
    blocks: int


def blockwise_attention(
    q_BLHD: Float[Array, "batch length heads head_dim"],
    k_BLKD: Float[Array, "batch length kv_heads head_dim"],
    v_BLKD: Float[Array, "batch length kv_heads head_dim"],
    *,
    segment_ids: Int[Array, "batch length"] | None = None,
    causal: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: PRNGKeyArray | None = None,
    block: int | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """Returns `dot_product_attention` of these arguments: exact self-attention.

    Pairs of blocks in which no query sees a key are left out. The backward pass keeps q, k, v, the result and one
    number for each query and head; what dropout leaves is drawn again. Differentiable once, in reverse mode.

    Args:
        q_BLHD: as there.
        k_BLKD: as there.
        v_BLKD: as there.
        segment_ids: as there.
        causal: as there.
        dropout_rate: as there.
        dropout_key: as there.
        block: the most tokens of a block. It does not depend on the mesh, or dropout would.
    """
    length = q_BLHD.shape[1]
    block = block or (WHOLE_ROW if length <= WHOLE_ROW else BLOCK)
    blocks = -(-length // block)
    size = length if blocks == 1 else -(-length // (8 * blocks)) * 8  # the last block is hardly shorter than the others
    if segment_ids is None and length % size:
        segment_ids = jnp.ones_like(q_BLHD[:, :, 0, 0], jnp.int32)  # what fills the last block is none of them
    key = None if dropout_rate == 0.0 else dropout_key
    return _attention(q_BLHD, k_BLKD, v_BLKD, segment_ids, key, _Rules(causal, dropout_rate, size, -(-length // size)))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(q_BLHD, k_BLKD, v_BLKD, ids_BL, key, rules):
    return _forward(q_BLHD, k_BLKD, v_BLKD, ids_BL, key, rules)[0]


def _forward(q_BLHD, k_BLKD, v_BLKD, ids_BL, key, rules):
    """The result, and what the backward pass keeps."""
    kv_heads = k_BLKD.shape[2]
    q, k, v = group_heads(_blocks(q_BLHD, rules), kv_heads), _blocks(k_BLKD, rules), _blocks(v_BLKD, rules)
    ids = _filled(ids_BL, rules)
    seen = _seen_pairs(ids, rules)

    def of_queries(i, results):
        q_i = _cut(q, i, rules)

        def over_keys(j, sums):
            highest, total, out = sums
            logits = _logits(q_i, _cut(k, j, rules), ids, i, j, rules)
            higher = jnp.maximum(highest, jnp.max(logits, axis=-1, keepdims=True))
            weights, shrink = jnp.exp(logits - higher), jnp.exp(highest - higher)
            total = total * shrink + jnp.sum(weights, axis=-1, keepdims=True)
            left = weights * _left(weights, key, i, j, rules)
            return higher, total, out * shrink + _times_keys(left.astype(v.dtype), _cut(v, j, rules))

        nothing = jnp.zeros_like(q_i, jnp.float32)
        start = nothing[..., :1] + MASK_VALUE, nothing[..., :1], nothing
        highest, total, out = _loop(seen, i, over_keys, start)
        sees = highest > MASK_VALUE / 2
        total = jnp.where(sees, total, 1)
        # Where nothing is seen, the backward pass finds probabilities exp(MASK_VALUE - 0) = 0.
        new = jnp.where(sees, out / total, 0).astype(q.dtype), jnp.where(sees, highest + jnp.log(total), 0)
        return tuple(_put(old, part, i, rules) for old, part in zip(results, new, strict=True))

    out, log_totals = _each_block(of_queries, (jnp.zeros_like(q), jnp.zeros_like(q[..., :1], jnp.float32)), rules)
    out_BLHD = _tokens_first(merge_groups(out), q_BLHD.shape[1])
    # Under these names a rematerialising caller may keep them, and so not make the forward pass again.
    out_BLHD, log_totals = (checkpoint_name(x, ATTENTION_OUTPUT) for x in (out_BLHD, log_totals))
    return out_BLHD, (q_BLHD, k_BLKD, v_BLKD, ids_BL, key, out_BLHD, log_totals)


def _backward(rules, kept, g_BLHD):
    """The gradients of q, k and v, in one walk over the pairs of blocks."""
    q_BLHD, k_BLKD, v_BLKD, ids_BL, key, out_BLHD, log_totals = kept
    length, kv_heads = k_BLKD.shape[1:3]
    q, g, out = (group_heads(_blocks(x_BLHD, rules), kv_heads) for x_BLHD in (q_BLHD, g_BLHD, out_BLHD))
    k, v, ids = _blocks(k_BLKD, rules), _blocks(v_BLKD, rules), _filled(ids_BL, rules)
    seeing = _seen_pairs(ids, rules).T
    # The mean of a query's d_probs over its probabilities, summed over channels instead of keys.
    means = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)

    def of_keys(j, gradients):
        k_j, v_j = _cut(k, j, rules), _cut(v, j, rules)

        def over_queries(i, sums):
            dq, dk_j, dv_j = sums
            q_i, g_i = _cut(q, i, rules), _cut(g, i, rules)
            probs = jnp.exp(_logits(q_i, k_j, ids, i, j, rules) - _cut(log_totals, i, rules))
            left = _left(probs, key, i, j, rules)
            d_probs = left * _products(g_i, v_j) - _cut(means, i, rules)
            d_logits = (probs * d_probs / math.sqrt(q.shape[-1])).astype(q.dtype)
            dq = _put(dq, _cut(dq, i, rules) + _times_keys(d_logits, k_j), i, rules)
            dv_j += _times_queries((probs * left).astype(g.dtype), g_i)
            return dq, dk_j + _times_queries(d_logits, q_i), dv_j

        dq, dk, dv = gradients
        start = dq, jnp.zeros_like(k_j, jnp.float32), jnp.zeros_like(v_j, jnp.float32)
        dq, dk_j, dv_j = _loop(seeing, j, over_queries, start)
        return dq, _put(dk, dk_j.astype(k.dtype), j, rules), _put(dv, dv_j.astype(v.dtype), j, rules)

    empty = jnp.zeros_like(q, jnp.float32), jnp.zeros_like(k), jnp.zeros_like(v)
    dq, dk, dv = _each_block(of_keys, empty, rules)
    dq = merge_groups(dq.astype(q.dtype))
    return *(_tokens_first(gradient, length) for gradient in (dq, dk, dv)), None, None


_attention.defvjp(_forward, _backward)


def _filled(ids_BL: Array | None, rules: _Rules) -> Array | None:
    """Segment ids of whole blocks, 0 behind the row."""
    return None if ids_BL is None else jnp.pad(ids_BL, ((0, 0), (0, -ids_BL.shape[1] % rules.block)))


def _blocks(x_BLHD: Array, rules: _Rules) -> Array:
    """[B, L, H, D] -> [B, H, L, D], filled up with zeros to whole blocks. XLA:CPU multiplies three times faster so."""
    return jnp.swapaxes(jnp.pad(x_BLHD, ((0, 0), (0, -x_BLHD.shape[1] % rules.block), (0, 0), (0, 0))), 1, 2)


def _tokens_first(x_BHLD: Array, length: int) -> Array:
    """[B, H, L, D] -> [B, L, H, D], without what `_blocks` filled up."""
    return jnp.swapaxes(x_BHLD, 1, 2)[:, :length]


def _seen_pairs(ids: Array | None, rules: _Rules) -> Array | np.ndarray:
    """Booleans [I, J]: may a query of block i, in any row, see a key of block j?"""
    pairs = np.ones((rules.blocks,) * 2, np.bool_)
    if rules.causal:
        pairs = np.tril(pairs)
    if ids is None or rules.blocks == 1:
        return pairs
    ids_BIL = ids.reshape(ids.shape[0], rules.blocks, rules.block)
    limit = jnp.iinfo(ids.dtype)
    lowest_BI = jnp.min(jnp.where(ids_BIL == 0, limit.max, ids_BIL), axis=2)
    highest_BI = jnp.max(jnp.where(ids_BIL == 0, limit.min, ids_BIL), axis=2)
    reaches = (lowest_BI[:, :, None] <= highest_BI[:, None]) & (lowest_BI[:, None] <= highest_BI[:, :, None])
    return pairs & jnp.any(reaches, axis=0)


def _loop(pairs, i, body, start):
    """Runs a body over the blocks j from the first to the last that are paired with block i."""
    if len(pairs) == 1:
        return body(0, start)
    row = jnp.asarray(pairs)[i]
    first, stop = jnp.argmax(row), len(row) - jnp.argmax(row[::-1])
    return jax.lax.fori_loop(first, jnp.where(jnp.any(row), stop, first), body, start)


def _each_block(body, start, rules):
    """Runs a body over all blocks."""
    return body(0, start) if rules.blocks == 1 else jax.lax.fori_loop(0, rules.blocks, body, start)


def _cut(x: Array, i, rules: _Rules) -> Array:
    """Block i of an array [.., L, D]."""
    if rules.blocks == 1:
        return x
    return jax.lax.dynamic_slice_in_dim(x, i * rules.block, rules.block, axis=x.ndim - 2)


def _put(x: Array, block: Array, i, rules: _Rules) -> Array:
    """Writes block i of an array [.., L, D]."""
    if rules.blocks == 1:
        return block
    return jax.lax.dynamic_update_slice_in_dim(x, block, i * rules.block, axis=x.ndim - 2)


def _logits(q_i: Array, k_j: Array, ids: Array | None, i, j, rules: _Rules) -> Array:
    """The scaled logits [B, K, G, L, S] of a pair of blocks, in float32, MASK_VALUE where a key is hidden."""
    logits = _products(q_i, k_j) / math.sqrt(q_i.shape[-1])
    if rules.causal:
        m = i * rules.block + jnp.arange(rules.block, dtype=jnp.int32)
        n = j * rules.block + jnp.arange(rules.block, dtype=jnp.int32)
        logits = jnp.where((n[None] <= m[:, None])[None, None, None], logits, MASK_VALUE)
    if ids is None:
        return logits
    m_BL, n_BS = (_cut(ids[..., None], at, rules)[..., 0] for at in (i, j))
    visible = (m_BL[:, :, None] == n_BS[:, None]) & (n_BS != 0)[:, None]
    return jnp.where(visible[:, None, None], logits, MASK_VALUE)


def _left(like: Array, key: PRNGKeyArray | None, i, j, rules: _Rules) -> Array | float:
    """What dropout makes of ones, drawn for this pair of blocks."""
    if key is None:
        return 1.0
    pair = jax.random.fold_in(key, i * rules.blocks + j)
    return dropout(jnp.ones_like(like), rules.dropout_rate, pair)


def _products(q: Array, k: Array) -> Array:
    return jnp.einsum("BKGLD,BKSD->BKGLS", q, k, preferred_element_type=jnp.float32)


def _times_keys(weights: Array, k: Array) -> Array:
    return jnp.einsum("BKGLS,BKSD->BKGLD", weights, k, preferred_element_type=jnp.float32)


def _times_queries(weights: Array, q: Array) -> Array:
    return jnp.einsum("BKGLS,BKGLD->BKSD", weights, q, preferred_element_type=jnp.float32)
