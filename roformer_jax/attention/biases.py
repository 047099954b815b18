"""Relative positions inside softmax attention: what is added to its logits, and to the values (equations 5-10).

Positions are those of a text in which distances are counted: a query at m, a key at n. In rows of packed documents the
indices in the row serve as well, for two tokens of one document are as far apart there as in the document.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Float, Int

T5_BUCKETS, T5_MAX_DISTANCE = 32, 128  # of every published T5


def alibi_slopes(num_heads: int) -> Float[np.ndarray, "{num_heads}"]:
    """Returns how much each head of ALiBi takes off a logit per token of distance (arXiv 2108.12409).

    The geometric series `2^(-8/H), 2^(-16/H), .., 2^-8` for H a power of two. For another H the authors' code takes the
    series of the next smaller power of two, then every other slope, from the first on, of the series twice as long.
    """
    power = 2 ** int(math.log2(num_heads))
    of_power, of_double = (2.0 ** (-8 / heads * np.arange(1, heads + 1)) for heads in (power, 2 * power))
    return np.concatenate([of_power, of_double[::2][: num_heads - power]])


def alibi_bias(
    query_positions: Int[Array, "#batch length"], key_positions: Int[Array, "#batch key_length"], num_heads: int
) -> Float[Array, "#batch {num_heads} length key_length"]:
    """Returns `-slope_h |m - n|`, to be added to the logits (ALiBi, arXiv 2108.12409), in float32.

    Under a causal mask this is the paper's form; without one it is the symmetric form for encoders.
    """
    distances_BLS = jnp.abs(_relative(query_positions, key_positions)).astype(jnp.float32)
    slopes_H = jnp.asarray(alibi_slopes(num_heads), jnp.float32)
    return -slopes_H[None, :, None, None] * distances_BLS[:, None]


def t5_buckets(
    query_positions: Int[Array, "#batch length"], key_positions: Int[Array, "#batch key_length"], *, causal: bool
) -> Int[Array, "#batch length key_length"]:
    """Returns the number, below T5_BUCKETS, of the bucket of every distance (T5, arXiv 1910.10683).

    Of the buckets of one direction, the first half hold one distance each; the others grow geometrically up to
    T5_MAX_DISTANCE tokens, and the last holds all beyond. Bucket bounds are computed in integers; the authors' float32
    logarithm gives the same buckets.

    Args:
        query_positions: m.
        key_positions: n.
        causal: all buckets are for keys before the query, and later ones fall into that of distance 0. Otherwise half
            of them, those above, are for later keys.
    """
    directed = T5_BUCKETS if causal else T5_BUCKETS // 2
    starts = jnp.asarray(_t5_starts(directed), jnp.int32)[None, None, None]

    def bucket(distances_BLS: Array) -> Array:
        return jnp.sum(distances_BLS[..., None] >= starts, axis=-1, dtype=jnp.int32)

    ahead_BLS = _relative(query_positions, key_positions)
    if causal:
        return bucket(-ahead_BLS)
    return bucket(jnp.abs(ahead_BLS)) + jnp.where(ahead_BLS > 0, directed, 0)


def shaw_logits(
    q_BLHD: Float[Array, "batch length heads head_dim"],
    table_RD: Float[Array, "distances head_dim"],
    query_positions: Int[Array, "#batch length"],
    key_length: int,
) -> Float[Array, "batch heads length {key_length}"]:
    """Returns `q_m . a^K_clip(n - m) / sqrt(D)`, to be added to the logits (arXiv 1803.02155, equation 4), in float32.

    Args:
        q_BLHD: queries, one for each head.
        table_RD: the learned a^K of the distances -k, .., k in this order: R = 2k + 1.
        query_positions: m; key n stands at position n.
        key_length: number of keys, S.
    """
    scores_BHLR = jnp.einsum("BLHD,RD->BHLR", q_BLHD, table_RD, preferred_element_type=jnp.float32)
    return at_distances(scores_BHLR / math.sqrt(q_BLHD.shape[-1]), query_positions, table_RD.shape[0], key_length)


def shaw_values(
    probs_BHLS: Float[Array, "batch heads length key_length"],
    table_RD: Float[Array, "distances head_dim"],
    query_positions: Int[Array, "#batch length"],
) -> Float[Array, "batch heads length head_dim"]:
    """Returns `sum_n p_mn a^V_clip(n - m)`, to be added to the mixed values (arXiv 1803.02155, equation 3), in float32.

    Probabilities are summed by distance first, so nothing of size L S D is made.

    Args:
        probs_BHLS: attention probabilities.
        table_RD: the learned a^V of the distances -k, .., k in this order: R = 2k + 1.
        query_positions: m; key n stands at position n.
    """
    distances, key_length = table_RD.shape[0], probs_BHLS.shape[-1]
    summed_BHLR = sum_by_distance(probs_BHLS, query_positions, distances, key_length).astype(table_RD.dtype)
    return jnp.einsum("BHLR,RD->BHLD", summed_BHLR, table_RD, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def at_distances(by_distance_BHLR: Array, query_positions_BL: Array, distances: int, key_length: int) -> Array:
    """[B, H, L, R] -> [B, H, L, S]: for key n what is held for its clipped distance `clip(n - m, -k, k)`.

    This and `sum_by_distance` are each other's transpose, and each is the other's gradient: no scatter is needed.
    """
    k = distances // 2
    keys_S = jnp.arange(key_length, dtype=jnp.int32)
    distances_BLS = jnp.clip(keys_S[None, None] - query_positions_BL[:, :, None], -k, k)
    return jnp.take_along_axis(by_distance_BHLR, distances_BLS[:, None] + k, axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def sum_by_distance(by_key_BHLS: Array, query_positions_BL: Array, distances: int, key_length: int) -> Array:
    """[B, H, L, S] -> [B, H, L, R]: sums over the keys of each clipped distance.

    Of the distances between -k and k each has one key, or none at the ends of the row; the two outermost have the rest.
    """
    k = distances // 2
    keys_S = jnp.arange(key_length, dtype=jnp.int32)
    relative_BLS = keys_S[None, None] - query_positions_BL[:, :, None]
    far_behind, far_ahead = (
        jnp.sum(jnp.where(far_BLS[:, None], by_key_BHLS, 0), axis=-1, keepdims=True)
        for far_BLS in (relative_BLS <= -k, relative_BLS >= k)
    )
    near_BLR = query_positions_BL[:, :, None] + jnp.arange(1 - k, k, dtype=jnp.int32)[None, None]
    inside_BLR = (near_BLR >= 0) & (near_BLR < key_length)
    near_BHLR = jnp.take_along_axis(by_key_BHLS, jnp.where(inside_BLR, near_BLR, 0)[:, None], axis=-1)
    return jnp.concatenate([far_behind, jnp.where(inside_BLR[:, None], near_BHLR, 0), far_ahead], axis=-1)


def _define_gradient(linear_map, transpose) -> None:
    """The cotangent goes back through the transposed map; positions have none."""

    def forward(array, query_positions_BL, distances, key_length):
        return linear_map(array, query_positions_BL, distances, key_length), query_positions_BL

    def backward(distances, key_length, query_positions_BL, cotangent):
        return transpose(cotangent, query_positions_BL, distances, key_length), None

    linear_map.defvjp(forward, backward)


_define_gradient(at_distances, sum_by_distance)
_define_gradient(sum_by_distance, at_distances)


def _relative(query_positions: Array, key_positions: Array) -> Array:
    """How far each key stands ahead of each query, n - m: [#B, L, S]."""
    return key_positions[:, None, :] - query_positions[:, :, None]


def _t5_starts(buckets: int) -> list[int]:
    """The smallest distance in each bucket but that of distance 0, of one direction that has so many buckets."""
    exact = buckets // 2
    grown = buckets - exact
    # Distance n is in bucket exact + b or above where grown * log(n / exact) / log(T5_MAX_DISTANCE / exact) >= b.
    return [*range(1, exact + 1)] + [
        next(n for n in range(exact, T5_MAX_DISTANCE + 1) if n**grown * exact**b >= T5_MAX_DISTANCE**b * exact**grown)
        for b in range(1, grown)
    ]
