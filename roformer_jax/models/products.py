"""The product of activations and a kernel, with gradients that suit the platform."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from roformer_jax.sharding import like
from roformer_jax.typing import Array, Float


def dot_general(
    x: Float[Array, "*leading_and_contracted"],
    kernel: Float[Array, "*contracted_and_new"],
    dimension_numbers: jax.lax.DotDimensionNumbers,
    *,
    precision: jax.lax.PrecisionLike,
    out_sharding: NamedSharding | None,
) -> Float[Array, "*leading_and_new"]:
    """`product` as flax's dense layers call it: of the last axes of `x` and the first of `kernel`, in their dtype."""
    return product(x, kernel, len(dimension_numbers[0][0]), x.dtype, out_sharding)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def product(
    x: Float[Array, "*leading_and_contracted"],
    kernel: Float[Array, "*contracted_and_new"],
    contracted: int,
    dtype: jax.typing.DTypeLike,
    out_sharding: NamedSharding | None = None,
) -> Float[Array, "*leading_and_new"]:
    """The sums over the last axes of `x` and the first of `kernel`, so many of them, in a dtype.

    The gradient of a kernel is a product over all tokens. Before it contracts several axes (batch and length), XLA:CPU
    writes a transpose; it writes none of a matrix, so there the backward pass multiplies matrices. XLA:TPU fuses more
    into products that keep their axes.
    """
    return _by_axes(x, kernel, contracted, dtype, out_sharding)


def _forward(x: Array, kernel: Array, *how) -> tuple[Array, tuple[Array, Array]]:
    return _by_axes(x, kernel, *how), (x, kernel)


def _backward(contracted: int, dtype, out_sharding, residuals: tuple[Array, Array], cotangent: Array) -> tuple:
    def gradients(form, x, kernel, cotangent):
        of_x = jax.linear_transpose(lambda x: form(x, kernel, contracted, dtype, out_sharding), x)
        of_kernel = jax.linear_transpose(lambda kernel: form(x, kernel, contracted, dtype, out_sharding), kernel)
        return *of_x(cotangent), *of_kernel(cotangent)

    return jax.lax.platform_dependent(
        *residuals, cotangent, cpu=partial(gradients, _as_matrices), default=partial(gradients, _by_axes)
    )


product.defvjp(_forward, _backward)


def _by_axes(x: Array, kernel: Array, contracted: int, dtype, out_sharding) -> Array:
    last = tuple(range(x.ndim - contracted, x.ndim))
    numbers = (last, tuple(range(contracted))), ((), ())
    return jax.lax.dot_general(x, kernel, numbers, preferred_element_type=dtype, out_sharding=out_sharding)


def _as_matrices(x: Array, kernel: Array, contracted: int, dtype, out_sharding) -> Array:
    """The same product of two matrices, unless devices split an axis that is not the first of `x`."""
    if any(axis is not None for axis in (*jax.typeof(x).sharding.spec[1:], *jax.typeof(kernel).sharding.spec)):
        return _by_axes(x, kernel, contracted, dtype, out_sharding)
    leading, new = x.shape[: x.ndim - contracted], kernel.shape[contracted:]
    rows = jax.lax.reshape(x, (math.prod(leading), math.prod(x.shape[len(leading) :])), out_sharding=_split(x, 2))
    products = jnp.matmul(rows, kernel.reshape(rows.shape[1], -1), preferred_element_type=dtype)
    return jax.lax.reshape(products, (*leading, *new), out_sharding=_split(x, len(leading) + len(new)))


def _split(x: Array, axes: int) -> PartitionSpec | None:
    """An array of so many axes split along the first as `x` is; None without an explicit mesh."""
    if like(x) is None:
        return None
    return PartitionSpec(jax.typeof(x).sharding.spec[0], *(None,) * (axes - 1))
