"""Softmax attention (equation 2) over dense or packed rows, by the implementation that suits the work."""

from functools import partial

import jax

from roformer_jax.attention import kernels
from roformer_jax.attention.blockwise import blockwise_attention
from roformer_jax.attention.dense import dense_attention
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray

IMPLEMENTATIONS = ("dense", "blockwise", "splash", "cudnn")
LONG = 512  # tokens: from here on the matrix of probabilities is not kept for the backward pass
LONG_ON_CPU = 1024  # tokens: as LONG in a mesh of CPUs, which make a shorter matrix again more slowly than they keep it


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
    implementation: str | None = None,
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
        implementation: "dense" makes the matrix of probabilities and does all of the above. "blockwise" does
            self-attention without bias and relative values, in memory linear in the length; so do, without dropout,
            "splash", a kernel for TPUs (elsewhere interpreted), and, for rows that are not packed, "cudnn", a kernel
            for NVIDIA GPUs. None: for rows of LONG tokens or more (LONG_ON_CPU in a mesh of CPUs) the kernel of the
            platform compiled for, on one device or in an explicit mesh, or else "blockwise"; "dense" for shorter rows
            and what these cannot do. All but "dense" can be differentiated once, in reverse mode.

    Raises:
        ValueError: if K does not divide H, a mask is asked for with L != S, segments with query positions, the rate
            is out of range, or the implementation cannot do what is asked.
    """
    if segment_ids is not None and query_positions is not None:
        raise ValueError("segment_ids are for self-attention, query_positions for queries that continue a text")
    _check(q_BLHD.shape, k_BSKD.shape, segment_ids is not None or (causal and query_positions is None), dropout_rate)
    arrays = q_BLHD, k_BSKD, v_BSKD
    dropping = dropout_key is not None and dropout_rate > 0
    extras = {"query_positions": query_positions, "bias": bias, "relative_values": relative_values}
    chosen = _chosen(implementation, arrays, extras, dropping=dropping, packed=segment_ids is not None)
    shared = {"causal": causal, "dropout_rate": dropout_rate, "dropout_key": dropout_key, "segment_ids": segment_ids}
    if chosen == {"default": "dense"}:
        return dense_attention(*arrays, **extras, **shared)
    forms = {
        "blockwise": partial(blockwise_attention, **shared),
        "splash": partial(kernels.splash_attention, causal=causal, segment_ids=segment_ids),
        "cudnn": partial(kernels.cudnn_attention, causal=causal),
    }
    branches = {platform: forms[name] for platform, name in chosen.items()}
    return branches["default"](*arrays) if len(branches) == 1 else jax.lax.platform_dependent(*arrays, **branches)


def _chosen(
    implementation: str | None, arrays: tuple[Array, ...], extras: dict[str, Array | None], *, dropping: bool, packed
) -> dict[str, str]:
    """Platform -> implementation, with one named "default"."""
    obstacles = partial(_obstacle, arrays=arrays, extras=extras, dropping=dropping, packed=packed)
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
        if obstacle := obstacles(implementation):
            raise ValueError(f"implementation={implementation!r} {obstacle}; 'dense' can do all, None finds one")
        return {"default": implementation}
    length = arrays[0].shape[1]
    # A program exported for any length (jax.export) cannot be cut into blocks.
    if not isinstance(length, int) or length < _long() or obstacles("blockwise"):
        return {"default": "dense"}
    kernel_of = {"tpu": "splash", "cuda": "cudnn"} if kernels.shares_are_known() else {}
    return {platform: name for platform, name in kernel_of.items() if not obstacles(name)} | {"default": "blockwise"}


def _long() -> int:
    """Tokens of the shortest row that is attended to in blocks, on the devices compiled for where they are known."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return LONG_ON_CPU if device is not None and device.platform == "cpu" else LONG


def _obstacle(name: str, arrays, extras: dict[str, Array | None], *, dropping: bool, packed: bool) -> str | None:
    """Says what of this work an implementation cannot do, if anything."""
    if name == "dense":
        return None
    q, k, _ = arrays
    if asked := [argument for argument, value in extras.items() if value is not None]:
        return f"cannot take {' and '.join(asked)}"
    if q.shape[1] != k.shape[1]:
        return f"is for self-attention, but there are {q.shape[1]} queries and {k.shape[1]} keys"
    match name:
        case "splash":
            return kernels.splash_obstacle(q, k, dropping=dropping)
        case "cudnn":
            return kernels.cudnn_obstacle(q, k, dropping=dropping, packed=packed)
    return None


def _check(q_shape: tuple[int, ...], k_shape: tuple[int, ...], masked: bool, dropout_rate: float) -> None:
    """Raises a ValueError with the offending values."""
    (_, L, H, _), (_, S, K, _) = q_shape, k_shape
    if H % K:
        raise ValueError(f"{H} query heads cannot share {K} key-value heads: {H} is not a multiple of {K}")
    if masked and L != S:
        raise ValueError(f"causal and segment_ids are for self-attention, but there are {L} queries and {S} keys")
    if not 0.0 <= dropout_rate < 1.0:
        raise ValueError(f"dropout_rate must be at least 0 and below 1, got {dropout_rate}")
