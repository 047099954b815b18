"""Small parts: linear maps, tables and norms with the paper's initialisation."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.products import dot_general
from roformer_jax.sharding import gathered, like
from roformer_jax.typing import Array, Float, Int


def linear(
    config: RoFormerConfig, in_features, out_features, *, axis=-1, axes: tuple[str | None, ...], use_bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.LinearGeneral:  # fmt: skip
    """A dense map over `axis`, normal(initializer_range) kernel, zero bias if any, computed in the config's dtype.

    `axes` names the axes of the kernel for `sharding.RULES`; the bias has those of them that come out.
    """
    contracted = len(axis) if isinstance(axis, tuple) else 1
    bias_axes = tuple(None if name == "embed" else name for name in axes[contracted:])
    return nnx.LinearGeneral(
        in_features, out_features, axis=axis, use_bias=use_bias, dtype=jnp.dtype(config.dtype), rngs=rngs,
        kernel_init=nnx.initializers.normal(config.initializer_range), kernel_metadata={"axes": axes},
        bias_metadata={"axes": bias_axes}, dot_general=dot_general,
    )  # fmt: skip


def norm(config: RoFormerConfig, width: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """The config's norm over the width, with float32 statistics and no bias or scale but LayerNorm's own.

    Its variance is computed in two passes: epsilon is far below the rounding of the faster one.
    """
    dtype = jnp.dtype(config.dtype)
    if config.norm_type == "rms_norm":
        return nnx.RMSNorm(width, epsilon=config.layer_norm_eps, dtype=dtype, use_scale=False, rngs=rngs)
    return nnx.LayerNorm(width, epsilon=config.layer_norm_eps, dtype=dtype, use_fast_variance=False, rngs=rngs)


def activated(config: RoFormerConfig, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The config's activation of x."""
    return gelu(x) if config.hidden_act == "gelu" else jax.nn.relu(x)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU, x Phi(x), as in BERT: by erf, whose error near zero probability is that of float32 at 1."""
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def table(config: RoFormerConfig, rows: int, width: int, *, rngs: nnx.Rngs) -> nnx.Embed:
    """An embedding with normal(initializer_range) rows."""
    init = nnx.initializers.normal(config.initializer_range)
    names = {"axes": (None, "embed") if width == config.hidden_size else ()}
    return nnx.Embed(
        rows, width, embedding_init=init, dtype=jnp.dtype(config.dtype), embedding_metadata=names, rngs=rngs
    )


def lookup(table_VM: Float[Array, "rows width"], ids: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
    """Rows of a table; an id outside it gives NaN, so that it cannot pass unseen."""
    whole_VM = gathered(table_VM)
    return whole_VM.at[ids].get(mode="fill", wrap_negative_indices=False, out_sharding=like(ids, extra_axes=1))


def gathered_call(module: nnx.Module, *args: Any) -> Array:
    """Call a module with whole copies of its parameters."""
    graphdef, params = nnx.split(module)
    return nnx.merge(graphdef, gathered(params))(*args)
