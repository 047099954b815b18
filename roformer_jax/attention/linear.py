"""Linear attention (equations 17 to 19): time and memory linear in the length, and a state of constant size."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roformer_jax import rope
from roformer_jax.attention.chunked import visible_sums
from roformer_jax.attention.features import FeatureMap, check_feature_map, key_features, query_features
from roformer_jax.typing import Array, Bool, Float, Int

ROTATE = ("after", "before")
CHUNK = 64  # tokens; of 32 to 512 the fastest on CPU, or within a tenth of it


class LinearState(NamedTuple):
    """All that queries need of earlier keys and values, in constant size: a pytree of float32 arrays."""

    sums: Float[Array, "batch kv_heads features value_dim_1"]
    """Of the numerator, for every channel of the values; in the last column, of the denominator."""
    log_scale: Float[Array, "batch kv_heads"]
    """The sums are those of features over exp(log_scale), which keeps exponentials of large keys within float32."""


def linear_attention(
    q_BLHD: Float[Array, "batch length heads head_dim"],
    k_BSKD: Float[Array, "batch key_length kv_heads head_dim"],
    v_BSKD: Float[Array, "batch key_length kv_heads value_dim"],
    rotation: rope.Rotation | None = None,
    *,
    layout: str | None = None,
    feature_map: str | FeatureMap = "elu",
    projection: Float[Array, "num_features head_dim"] | None = None,
    rotate: str = "after",
    causal: bool = False,
    segment_ids: Int[Array, "batch length"] | None = None,
    chunk: int = CHUNK,
    axis_name: str | None = None,
) -> Float[Array, "batch length heads value_dim"]:
    """Returns `sum_n (R_m phi(q_m)) . (R_n varphi(k_n)) v_n / sum_n phi(q_m) . varphi(k_n)` (equation 19).

    Features and sums are float32 (float64 for float64 inputs), the result has the dtype of the queries. Where the
    denominator is zero (padding; "relu" features without a common channel) the result is exactly zero.

    Args:
        q_BLHD: queries, not rotated.
        k_BSKD: keys, not rotated; each of the K heads serves H / K consecutive query heads.
        v_BSKD: values.
        rotation: of the positions, shared by the heads: tables [L, F] or [B, L, F]. None: none (equation 18).
        layout: of the rotary pairs, as in `rope.rotate`; required with a rotation.
        feature_map: "elu" (elu + 1) or "relu", of queries and keys; "softmax": softmax(q) and exp(k); "favor": positive
            random features, an estimate of the weights of `dot_product_attention`; or a function from [..., D] to
            non-negative features [..., F], of both.
        projection: the random directions of "favor", from `favor_projection`.
        rotate: "after" the feature map, in the numerator alone (equation 19): weights may be negative, and do not sum
            to one, but depend on positions through distances alone. "before" it, in numerator and denominator, as code
            of the Performer does: weights sum to one, but depend on distances alone only in the mean of "favor".
        causal: self-attention in which no query sees a later key.
        segment_ids: self-attention over packed rows: tokens see only their own segment. Constant over a segment and
            not used again in the row; id 0 is padding, which no token sees, and whose own rows are exactly zero.
        chunk: tokens of a causal or packed row that are multiplied at once; changes time and rounding alone.
        axis_name: mesh axis that the length is spread over, inside `jax.shard_map`; all arrays are those of one shard.

    Raises:
        ValueError: if K does not divide H, a mask or a rotation meets L != S, the feature map, its projection or the
            rotation do not fit, a function has negative features, or an argument is unknown or missing.
    """
    weight = _Weight(rotation, layout, feature_map, projection, rotate)
    _check(q_BLHD.shape, k_BSKD.shape, weight, chunk, masked=causal or segment_ids is not None)
    valid = None if segment_ids is None else segment_ids != 0
    terms, _ = _terms(q_BLHD, k_BSKD, v_BSKD, weight, valid=valid, axis_name=axis_name)
    sums = partial(_sums, segment_ids=segment_ids, causal=causal, chunk=chunk, axis_name=axis_name)
    return _ratio(jnp.concatenate([sums(*term) for term in terms], axis=-1), valid).astype(q_BLHD.dtype)


def linear_attention_step(
    q_BTHD: Float[Array, "batch tokens heads head_dim"],
    k_BTKD: Float[Array, "batch tokens kv_heads head_dim"],
    v_BTKD: Float[Array, "batch tokens kv_heads value_dim"],
    rotation: rope.Rotation | None = None,
    state: LinearState | None = None,
    *,
    layout: str | None = None,
    feature_map: str | FeatureMap = "elu",
    projection: Float[Array, "num_features head_dim"] | None = None,
    rotate: str = "after",
    valid: Bool[Array, "batch tokens"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Array, "batch tokens heads value_dim"], LinearState]:
    """Returns causal linear attention of T new tokens over themselves and all earlier ones, and the state after them.

    A prompt and then one token at a time give what `linear_attention` gives for all of them at once, in constant time
    and memory for a token.

    Args:
        q_BTHD: queries of the new tokens; this and all other arguments as in `linear_attention`, alike in every step.
        k_BTKD: their keys.
        v_BTKD: their values.
        rotation: of their positions.
        state: of the earlier tokens; None: there are none.
        layout: of the rotary pairs.
        feature_map: of queries and keys.
        projection: of "favor".
        rotate: "after" or "before" the feature map.
        valid: which of the new tokens are tokens; the others, the padding of prompts on either side, do not enter the
            state, and their own rows are exactly zero. None: all.
        chunk: tokens that are multiplied at once.

    Raises:
        ValueError: as `linear_attention`.
    """
    weight = _Weight(rotation, layout, feature_map, projection, rotate)
    _check(q_BTHD.shape, k_BTKD.shape, weight, chunk, masked=True)
    earlier_scale = None if state is None else state.log_scale
    terms, log_scale = _terms(q_BTHD, k_BTKD, v_BTKD, weight, valid=valid, log_scale=earlier_scale)
    sums = partial(_sums, segment_ids=None, causal=True, chunk=chunk, axis_name=None)
    out = jnp.concatenate([sums(*term) for term in terms], axis=-1)
    added = jnp.concatenate([_state(k, v) for _, k, v in terms], axis=-1)
    if state is not None:
        earlier = state.sums * jnp.exp(state.log_scale - log_scale)[:, :, None, None]
        added += earlier
        parts = (earlier,) if len(terms) == 1 else (earlier[..., :-1], earlier[..., -1:])
        out += jnp.concatenate([_read(q, part) for (q, _, _), part in zip(terms, parts, strict=True)], axis=-1)
    return _ratio(out, valid).astype(q_BTHD.dtype), LinearState(added, log_scale)


class _Weight(NamedTuple):
    """How queries and keys make a weight: arguments of `linear_attention`."""

    rotation: rope.Rotation | None
    layout: str | None
    feature_map: str | FeatureMap
    projection: Array | None
    rotate: str


def _check(q_shape: tuple[int, ...], k_shape: tuple[int, ...], weight: _Weight, chunk: int, masked: bool) -> None:
    """Raises a ValueError with the offending values."""
    (_, L, H, D), (_, S, K, _) = q_shape, k_shape
    if H % K:
        raise ValueError(f"{H} query heads cannot share {K} key-value heads: {H} is not a multiple of {K}")
    if (masked or weight.rotation is not None) and L != S:
        raise ValueError(
            f"causal, segment_ids and rotation are for self-attention, but there are {L} queries and {S} keys"
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 token, got {chunk}")
    if weight.rotate not in ROTATE:
        raise ValueError(f"unknown rotate {weight.rotate!r}; there are {', '.join(ROTATE)} (the feature map)")
    if weight.rotation is not None and weight.layout is None:
        raise ValueError('a rotation needs a layout: "interleaved" (the paper) or "half" (see rope.rotate)')
    check_feature_map(weight.feature_map, weight.projection, D)


def _terms(
    q_BLHD: Array,
    k_BSKD: Array,
    v_BSKD: Array,
    weight: _Weight,
    *,
    valid: Array | None,
    log_scale: Array | None = None,
    axis_name: str | None = None,
) -> tuple[list[tuple[Array, Array, Array]], Array]:
    """What is to be summed, as (queries, keys, values), and the log_scale of the keys.

    Where one weight serves numerator and denominator, it is one term, whose values have a column of ones for the
    denominator. Otherwise the denominator has a term of its own.
    """
    rotation, layout, feature_map, projection, rotate = weight
    dtype = jnp.float64 if q_BLHD.dtype == jnp.float64 else jnp.float32
    q_BLHD, k_BSKD, v_BSKD = (array.astype(dtype) for array in (q_BLHD, k_BSKD, v_BSKD))
    if rotation is not None and rotate == "before":
        q_BLHD, k_BSKD = rope.rotate_qk(q_BLHD, k_BSKD, rotation, layout=layout)
    phi_BLHF = query_features(q_BLHD, feature_map, projection)
    varphi_BSKF, log_scale = key_features(
        k_BSKD, feature_map, projection, valid=valid, log_scale=log_scale, axis_name=axis_name
    )
    ones = jnp.ones_like(v_BSKD[..., :1])
    if rotation is None or rotate == "before":
        return [(phi_BLHF, varphi_BSKF, jnp.concatenate([v_BSKD, ones], axis=-1))], log_scale
    features, pairs = phi_BLHF.shape[-1], rotation.cos.shape[-1]
    if features != q_BLHD.shape[-1] and features != 2 * pairs:
        raise ValueError(
            f'rotate="after" rotates the {features} features, but the rotation has {pairs} pairs: make it with '
            f"frequencies({features}) (the number of features must be even)"
        )
    rotated = rope.rotate_qk(phi_BLHF, varphi_BSKF, rotation, layout=layout)
    return [(*rotated, v_BSKD), (phi_BLHF, varphi_BSKF, ones)], log_scale


def _sums(q_BLHF, k_BSKF, v_BSKD, *, segment_ids, causal, chunk, axis_name):
    """`sum_n (q_m . k_n) v_n` over all tokens n that m may see, on this shard and the others."""
    if segment_ids is None and not causal:
        state = _state(k_BSKF, v_BSKD)
        return _read(q_BLHF, state if axis_name is None else jax.lax.psum(state, axis_name))
    ids = jnp.ones(q_BLHF.shape[:2], jnp.int32) if segment_ids is None else segment_ids
    heads = q_BLHF.shape[2]
    here = visible_sums(q_BLHF, _serve(k_BSKF, heads, 2), _serve(v_BSKD, heads, 2), ids, causal=causal, chunk=chunk)
    return here if axis_name is None else here + _from_other_shards(q_BLHF, k_BSKF, v_BSKD, ids, causal, axis_name)


def _from_other_shards(q_BLHF, k_BSKF, v_BSKD, ids, causal, axis_name):
    """The part of the sums that earlier shards add and, where not causal, later ones.

    A segment reaches another shard only over the edges: a shard hands out the states of its last and first segments.
    """
    shard, shards = jax.lax.axis_index(axis_name), jnp.arange(jax.lax.axis_size(axis_name))
    first, last = ids[:, 0], ids[:, -1]

    def reach(edge_here, edge_there, there):
        of_edge = jnp.where((ids == edge_there[:, None])[:, :, None, None], k_BSKF, 0)
        states_NBKFD = jax.lax.all_gather(_state(of_edge, v_BSKD), axis_name)
        counts_NB = there[:, None] & (jax.lax.all_gather(edge_there, axis_name) == edge_here[None])
        state = jnp.sum(jnp.where(counts_NB[:, :, None, None, None], states_NBKFD, 0), axis=0)
        return jnp.where((ids == edge_here[:, None])[:, :, None, None], _read(q_BLHF, state), 0)

    before = reach(first, last, shards < shard)
    return before if causal else before + reach(last, first, shards > shard)


def _state(k_BSKF: Array, v_BSKD: Array) -> Array:
    """The sum of the outer products of keys and values."""
    return jnp.einsum("BSKF,BSKD->BKFD", k_BSKF, v_BSKD)


def _read(q_BLHF: Array, state_BKFD: Array) -> Array:
    """What the queries find in a state."""
    return jnp.einsum("BLHF,BHFD->BLHD", q_BLHF, _serve(state_BKFD, q_BLHF.shape[2], 1))


def _serve(x: Array, heads: int, axis: int) -> Array:
    """Repeats each of the K heads on an axis for its H / K query heads."""
    kv_heads = x.shape[axis]
    if kv_heads == heads:
        return x
    shape = (*x.shape[: axis + 1], heads // kv_heads, *x.shape[axis + 1 :])
    copies = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), shape)
    if kv_heads == 1:
        return jnp.squeeze(copies, axis)
    return copies.reshape(*x.shape[:axis], heads, *x.shape[axis + 1 :])


def _ratio(sums_BLHD: Array, valid: Array | None) -> Array:
    """Numerator over denominator, the last column; zero, with zero gradients, where the denominator is or not valid."""
    numerator, denominator = sums_BLHD[..., :-1], sums_BLHD[..., -1:]
    counts = denominator > jnp.finfo(denominator.dtype).tiny
    if valid is not None:
        counts &= valid[:, :, None, None]
    # Both over the denominator's value, a constant: the derivative of a plain quotient squares it, out of float32.
    constant = jax.lax.stop_gradient(jnp.where(counts, denominator, 1))
    return jnp.where(counts, (numerator / constant) / jnp.where(counts, denominator / constant, 1), 0)
