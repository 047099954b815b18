"""The operation: rotate the pairs of channels of queries and keys (equation 34)."""

from functools import partial

import jax
import jax.numpy as jnp

from roformer_jax.rope.layouts import pair_axis
from roformer_jax.rope.rotations import Rotation
from roformer_jax.typing import Array, Float

HEAD_AXES = (-2, -3, None)


def rotate(
    x: Float[Array, "*shape"], rotation: Rotation, *, layout: str, head_axis: int | None = -2, start: int = 0
) -> Float[Array, "*shape"]:
    """Rotates every pair of channels of `x` by its position: `R_m x` (equation 34).

    Computed in float32, returned in `x.dtype`. The cotangent of `x` is the cotangent of the result rotated by
    `rotation.conj()`, and no activation is kept for it; `x` is kept only where the rotation itself is differentiated.
    Reverse mode only (`jax.grad`, any order): the rule is a `jax.custom_vjp`.

    Args:
        x: [..., L, H, D] (`head_axis=-2`), [..., H, L, D] (`head_axis=-3`) or [..., L, D] (`head_axis=None`).
        rotation: tables [..., L, F], shared by the heads; missing or unit batch axes are broadcast.
        layout: "interleaved" pairs channels (2i, 2i + 1), as the paper does; "half" pairs (i, i + F).
        head_axis: where the heads lie.
        start: first rotated channel; channels outside [start, start + 2F) pass through unchanged.

    Raises:
        ValueError: for an unknown layout or head axis, or shapes that do not fit, with the shapes.
    """
    pair_axis(layout)
    _check_shapes(x.shape, rotation.cos.shape, head_axis, start)
    cos, sin = (_align(table, x.ndim, head_axis) for table in rotation)
    return _rotate(x, cos, sin, layout, start)


def rotate_qk(
    q: Float[Array, "*query_shape"],
    k: Float[Array, "*key_shape"],
    rotation: Rotation,
    rotation_k: Rotation | None = None,
    *,
    layout: str,
    head_axis: int | None = -2,
    start: int = 0,
) -> tuple[Float[Array, "*query_shape"], Float[Array, "*key_shape"]]:
    """Rotates queries and keys, which may differ in their number of heads (equation 16; values are never rotated).

    Args:
        q: queries, as `x` of `rotate`.
        k: keys, as `x` of `rotate`.
        rotation: tables of the queries, and of the keys unless `rotation_k` is given.
        rotation_k: tables of the keys, where their positions differ from those of the queries.
        layout: as in `rotate`.
        head_axis: as in `rotate`.
        start: as in `rotate`.
    """
    place = partial(rotate, layout=layout, head_axis=head_axis, start=start)
    return place(q, rotation), place(k, rotation if rotation_k is None else rotation_k)


def _rotate_pairs(x: Array, cos: Array, sin: Array, layout: str, start: int) -> Array:
    """The map itself, with tables of the rank of `x`: split into pairs, multiply as complex numbers, put back."""
    pairs, stop = cos.shape[-1], start + 2 * cos.shape[-1]
    axis = pair_axis(layout)
    split = (pairs, 2) if axis == -1 else (2, pairs)
    # One reshape and one stack: XLA fuses this form into a single pass, and split-and-concatenate into several.
    rotated = x[..., start:stop].astype(jnp.float32).reshape(*x.shape[:-1], *split)
    real, imaginary = jnp.unstack(rotated, axis=axis)
    rotated = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], axis)
    rotated = rotated.reshape(*x.shape[:-1], 2 * pairs).astype(x.dtype)
    if 2 * pairs == x.shape[-1]:
        return rotated
    return jnp.concatenate([x[..., :start], rotated, x[..., stop:]], axis=-1)


_rotate = jax.custom_vjp(_rotate_pairs, nondiff_argnums=(3, 4))


def _forward(x, cos, sin, layout, start):
    """Keeps `x` only if the tables are differentiated too."""
    kept = x.value if cos.perturbed or sin.perturbed else None
    return _rotate(x.value, cos.value, sin.value, layout, start), (kept, cos.value, sin.value)


def _backward(layout, start, residuals, cotangent):
    """Rotates the cotangent back by the conjugate; differentiates the plain formula for the tables."""
    x, cos, sin = residuals
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return None, None, None
    x_cotangent = _rotate(cotangent, cos, -sin, layout, start)
    if x is None:
        return x_cotangent, None, None
    _, table_vjp = jax.vjp(lambda cos, sin: _rotate_pairs(x, cos, sin, layout, start), cos, sin)
    return x_cotangent, *table_vjp(cotangent)


_rotate.defvjp(_forward, _backward, symbolic_zeros=True)


def _align(table: Array, axes: int, head_axis: int | None) -> Array:
    """Gives a table [..., L, F] the rank of `x`: a unit axis for the heads and for each missing batch axis."""
    if head_axis is not None:
        table = jnp.expand_dims(table, head_axis)
    return jnp.expand_dims(table, tuple(range(axes - table.ndim)))


def _check_shapes(x_shape: tuple[int, ...], table_shape: tuple[int, ...], head_axis: int | None, start: int) -> None:
    """Raises a ValueError with both shapes unless the table fits `x`."""
    if head_axis not in HEAD_AXES:
        raise ValueError(f"head_axis must be one of {HEAD_AXES} (None: no heads), got {head_axis}")
    *positions, pairs = table_shape
    expected = tuple(size for axis, size in enumerate(x_shape, -len(x_shape)) if axis not in (-1, head_axis))
    fits = (
        1 <= len(positions) <= len(expected)
        and positions[-1] == expected[-1]
        and all(p in (1, e) for p, e in zip(reversed(positions), reversed(expected), strict=False))
    )
    if not fits:
        raise ValueError(
            f"x of shape {x_shape} with head_axis={head_axis} has positions of shape {expected}, "
            f"but the rotation was made for positions of shape {tuple(positions)} (tables of shape {table_shape})"
        )
    if start < 0 or start + 2 * pairs > x_shape[-1]:
        raise ValueError(
            f"the rotation turns {2 * pairs} channels ({pairs} pairs) from channel {start} on, "
            f"but x of shape {x_shape} has {x_shape[-1]} channels per head"
        )
