"""Softmax attention by the kernels of a platform: splash attention on TPUs, cuDNN's flash attention on NVIDIA GPUs.

Both are imported where they are called: Pallas takes longer to import than this library may.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from roformer_jax.typing import Array, Float, Int

SPLASH_BLOCKS = (512, 256, 128)  # tokens; the largest that divides the length is taken


def splash_obstacle(q_BLHD: Array, k_BLKD: Array, *, dropping: bool) -> str | None:
    """Says what of this work the kernel for TPUs cannot do, if anything."""
    if dropping:
        return "cannot drop probabilities"
    if q_BLHD.shape[1] % SPLASH_BLOCKS[-1]:
        return f"needs a length that {SPLASH_BLOCKS[-1]} divides, got {q_BLHD.shape[1]}"
    return _shard_obstacle(q_BLHD, k_BLKD)


def cudnn_obstacle(q_BLHD: Array, k_BLKD: Array, *, dropping: bool, packed: bool) -> str | None:
    """Says what of this work the kernel for GPUs cannot do, if anything; starts the backend of the process."""
    if dropping:
        return "cannot drop probabilities with a key"
    if packed:
        return "cannot tell packed segments apart without a bias for every pair of tokens"
    if q_BLHD.dtype not in (jnp.bfloat16, jnp.float16):
        return f"multiplies bfloat16 or float16, got {q_BLHD.dtype}"
    if q_BLHD.shape[3] % 8 or q_BLHD.shape[3] > 128:
        return f"needs a multiple of 8 up to 128 channels per head, got {q_BLHD.shape[3]}"
    if "cuda" not in jax.local_devices()[0].client.platform_version:
        return f"runs on NVIDIA GPUs, but this process has {jax.local_devices()[0].platform}"
    return _shard_obstacle(q_BLHD, k_BLKD)


def splash_attention(
    q_BLHD: Float[Array, "batch length heads head_dim"],
    k_BLKD: Float[Array, "batch length kv_heads head_dim"],
    v_BLKD: Float[Array, "batch length kv_heads head_dim"],
    segment_ids: Int[Array, "batch length"] | None,
    *,
    causal: bool,
) -> Float[Array, "batch length heads head_dim"]:
    """Returns equation 2 by `jax.experimental.pallas.ops.tpu.splash_attention`; interpreted, slowly, off TPUs."""
    ids = jnp.ones_like(q_BLHD[:, :, 0, 0], jnp.int32) if segment_ids is None else segment_ids
    branches = {"tpu": partial(_splash, causal=causal), "default": partial(_splash, causal=causal, interpret=True)}
    out_BLHD = _on_each_shard(partial(jax.lax.platform_dependent, **branches), q_BLHD, k_BLKD, v_BLKD, ids)
    return jnp.where(ids[:, :, None, None] != 0, out_BLHD, 0)  # padding saw padding


def _splash(q_BLHD: Array, k_BLHD: Array, v_BLHD: Array, ids_BL: Array, *, causal: bool, interpret=False) -> Array:
    """The kernel takes one row, heads first, and does not scale."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, L, H, D = q_BLHD.shape
    mask = masks.CausalMask((L, L)) if causal else masks.FullMask((L, L))
    size = next(size for size in SPLASH_BLOCKS if L % size == 0)
    forward = {"block_q": size, "block_kv": size}
    backward = {"block_q_dkv": size, "block_kv_dkv": size, "block_q_dq": size, "block_kv_dq": size}
    kernel = splash.make_splash_mha_single_device(
        masks.MultiHeadMask([mask] * H), block_sizes=splash.BlockSizes(**forward, **backward), interpret=interpret
    )
    q_BLHD = (q_BLHD.astype(jnp.float32) / math.sqrt(D)).astype(q_BLHD.dtype)
    heads_first = (jnp.swapaxes(array, 1, 2) for array in (q_BLHD, k_BLHD, v_BLHD))
    out_BHLD = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, splash.SegmentIds(ids, ids)))(*heads_first, ids_BL)
    return jnp.swapaxes(out_BHLD, 1, 2)


def cudnn_attention(
    q_BLHD: Float[Array, "batch length heads head_dim"],
    k_BLKD: Float[Array, "batch length kv_heads head_dim"],
    v_BLKD: Float[Array, "batch length kv_heads head_dim"],
    *,
    causal: bool,
) -> Float[Array, "batch length heads head_dim"]:
    """Returns equation 2 by cuDNN: `jax.nn.dot_product_attention` for dense rows."""
    kernel = partial(jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn")
    return _on_each_shard(kernel, q_BLHD, k_BLKD, v_BLKD)


def shares_are_known() -> bool:
    """Does the program say which rows and heads a device has? Only then may a kernel be chosen for it."""
    return _explicit() or jax.device_count() == 1


def _shard_obstacle(q_BLHD: Array, k_BLKD: Array) -> str | None:
    """Kernels run on whole rows of whole heads."""
    if not _explicit():
        return None
    q_spec, k_spec = (jax.typeof(array).sharding.spec for array in (q_BLHD, k_BLKD))
    if q_spec != k_spec or q_spec[1] is not None or q_spec[3] is not None:
        return f"needs queries and keys split alike, along rows and heads alone, got {q_spec} and {k_spec}"
    return None


def _on_each_shard(function: Callable, *arrays: Array) -> Array:
    """Runs a function on every device's own rows and heads."""
    if not _explicit():
        return function(*arrays)
    specs = tuple(jax.typeof(array).sharding.spec for array in arrays)
    return jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def _explicit() -> bool:
    """Are shardings part of array types?"""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and all(kind == AxisType.Explicit for kind in mesh.axis_types)
