"""Positions of tokens: packed, ragged, padded and decoded rows, grids, sequences dealt to the shards of a mesh."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Bool, Int


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


def positions_from_cu_seqlens(
    cu_seqlens: Int[Array | np.ndarray, "boundaries"], *, total: int
) -> Int[Array, "{total}"]:
    """Returns each token's position in its own sequence, for sequences laid end to end on one axis.

    The boundaries are those of flash-attention's `flash_attn_varlen_func` and transformers' `cu_seq_lens_q`. They may
    be traced: new boundaries do not recompile.

    Args:
        cu_seqlens: cumulative lengths [N + 1]: 0, then where each sequence ends; a sequence may be empty.
        total: tokens on the axis, padding after the last sequence included.

    Returns:
        int32 [total]: 0 at the start of every sequence, and on the padding.

    Raises:
        ValueError: if `total` is not positive or `cu_seqlens` is empty; for a NumPy array, whose values are known, also
            if it does not begin with 0, falls, or ends after `total`.
    """
    if total <= 0 or not cu_seqlens.size:
        raise ValueError(f"total and the size of cu_seqlens must be positive, got {total} and {cu_seqlens.shape}")
    if isinstance(cu_seqlens, np.ndarray):
        _check_boundaries(cu_seqlens, total)
    boundaries = jnp.asarray(cu_seqlens, jnp.int32)
    index = jnp.arange(total, dtype=jnp.int32)
    sequence = jnp.searchsorted(boundaries, index, side="right") - 1
    return jnp.where(index < boundaries[-1], index - boundaries[sequence], 0)


def positions_from_lengths(lengths: Int[Array | np.ndarray, "sequences"], *, total: int) -> Int[Array, "{total}"]:
    """Returns each token's position in its own sequence, as `positions_from_cu_seqlens`, from lengths [N].

    Args:
        lengths: tokens of each sequence, in order; 0 is allowed, as `jax.lax.ragged_dot` allows empty groups.
        total: tokens on the axis, padding after the last sequence included.

    Raises:
        ValueError: as `positions_from_cu_seqlens`.
    """
    library = np if isinstance(lengths, np.ndarray) else jnp
    return positions_from_cu_seqlens(library.pad(library.cumsum(lengths), (1, 0)), total=total)


def padded_positions(mask: Bool[Array, "*batch length"] | Int[Array, "*batch length"]) -> Int[Array, "*batch length"]:
    """Returns positions that count the tokens and not the padding, whether that is on the left or on the right.

    As transformers' `generate` makes `position_ids` from an attention mask, so that a row padded on the left for
    batched decoding is rotated as it is alone.

    Args:
        mask: [..., L], nonzero or True where a token is.

    Returns:
        int32 [..., L]: the number of tokens before; 0 on padding.
    """
    is_token = mask.astype(bool)
    return jnp.where(is_token, jnp.cumsum(is_token, axis=-1, dtype=jnp.int32) - 1, 0)


def decode_positions(cached: Int[Array | np.ndarray, "*batch"], length: int = 1) -> Int[Array, "*batch {length}"]:
    """Returns the positions of new tokens, where every row already has its own number of tokens in a cache.

    Args:
        cached: tokens that each row has seen, [...] (flash-attention's `cache_seqlens`): an array, also where it is
            one number for all rows, so that the next step does not recompile.
        length: new tokens of each row.

    Returns:
        int32 [..., length]: `cached`, `cached + 1`, ..

    Raises:
        ValueError: if `length` is not positive.
    """
    if length <= 0:
        raise ValueError(f"length must be a positive number of new tokens, got {length}")
    ahead = jax.lax.broadcasted_iota(jnp.int32, (*cached.shape, length), cached.ndim)
    return jnp.asarray(cached, jnp.int32)[..., None] + ahead


def grid_positions(*sizes: int, class_tokens: int = 0) -> Int[np.ndarray, "tokens axes"]:
    """Returns the coordinates of the cells of a grid: an image's patches (rows, columns), a video's (frames, ..).

    Class (and register) tokens come first and get 0 on every axis, which leaves them as they are: position 0 is the
    identity. RoPE-ViT and timm leave them out of the rotation to the same effect.

    Args:
        sizes: cells along each axis; the last varies fastest (row-major), as when patches are flattened.
        class_tokens: tokens before the cells.

    Returns:
        int32 [class_tokens + prod(sizes), A], for a spectrum [A, F] or [A, H, F].

    Raises:
        ValueError: if a size is not positive or there is none, or `class_tokens` is negative.
    """
    if not sizes or min(sizes) <= 0 or class_tokens < 0:
        raise ValueError(f"a grid needs positive sizes and class_tokens >= 0, got sizes {sizes} and {class_tokens}")
    cells = np.indices(sizes, np.int32).reshape(len(sizes), math.prod(sizes)).T
    return np.concatenate([np.zeros((class_tokens, len(sizes)), np.int32), cells])


def zigzag_positions(length: int, shards: int) -> Int[np.ndarray, "{length}"]:
    """Returns the positions of a sequence dealt to shards for balanced causal attention (context parallelism).

    Of 2 * shards chunks, shard s holds chunks s and 2 * shards - 1 - s, so that all have as many keys to look at
    (ring attention; Megatron-LM and TransformerEngine do the same). The positions are also the permutation:

        order = rope.zigzag_positions(length, shards)
        x = tokens[:, order]                      # before axis 1 is sharded; `rotation(order, ..)` needs no collective
        tokens = x[:, np.argsort(order)]          # back, once x is in one place again

    Args:
        length: tokens of the sequence.
        shards: devices along it.

    Returns:
        int32 [length].

    Raises:
        ValueError: if `length` is not a positive multiple of 2 * shards.
    """
    if shards <= 0 or length <= 0 or length % (2 * shards):
        raise ValueError(f"length must be a positive multiple of 2 * shards, got length {length} and {shards} shards")
    chunks = np.arange(length, dtype=np.int32).reshape(2 * shards, -1)
    return np.stack([chunks[:shards], chunks[: shards - 1 : -1]], axis=1).ravel()


def _check_boundaries(cu_seqlens: np.ndarray, total: int) -> None:
    """Raises a ValueError unless cumulative lengths begin with 0, never fall, and fit into `total` tokens."""
    rises = (np.diff(cu_seqlens) >= 0).all()
    if cu_seqlens[0] or not rises or cu_seqlens[-1] > total:
        raise ValueError(
            f"cumulative lengths must begin with 0, never fall and end by total={total}, got {cu_seqlens.tolist()}"
        )
