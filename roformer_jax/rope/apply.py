"""The operation: rotate the pairs of channels of queries and keys (equation 34)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from roformer_jax.rope.forms import IMPLEMENTATIONS, rotate_pairs
from roformer_jax.rope.layouts import read_and_written
from roformer_jax.rope.rotations import Rotation
from roformer_jax.typing import Array, Float

HEAD_AXES = (-2, -3, None)


def rotate(
    x: Float[Array, "*shape"],
    rotation: Rotation,
    *,
    layout: str | None,
    head_axis: int | None = -2,
    start: int = 0,
    blocks: int = 1,
    implementation: str | None = None,
) -> Float[Array, "*shape"]:
    """Rotates every pair of channels of `x` by its position: `R_m x` (equation 34).

    Computed in float32 (float64 for float64 `x`), returned in `x.dtype`. The cotangent of `x` is the cotangent of the
    result rotated by `rotation.conj()`, and no activation is kept for it; `x` is kept only where the rotation itself is
    differentiated. Reverse mode only (`jax.grad`, any order): the rule is a `jax.custom_vjp`.

    Args:
        x: [..., L, H, D] (`head_axis=-2`), [..., H, L, D] (`head_axis=-3`) or [..., D] (`head_axis=None`).
        rotation: tables [..., L, F], shared by the heads; missing or unit batch axes are broadcast. With
            `head_axis=None` no axis of `x` shares the tables: [..., L, F] for x [..., L, D], and [..., L, H, F], one
            table for each head, for x [..., L, H, D].
        layout: which channels form pair i of the 2F that turn. "interleaved": 2i and 2i + 1, as in the paper. "half":
            i and i + F, as in Llama. "interleaved_to_half" reads interleaved pairs and writes halves, which leaves
            scores as they are where queries and keys both do it (DeepSeek); "half_to_interleaved" goes the other way.
            There is no default, for the wrong layout runs too.
        head_axis: where the heads lie.
        start: first channel that turns, negative from the end as in indexing; channels outside [start, start + 2F)
            pass through unchanged.
        blocks: the channels that turn are this many equal blocks, each laid out on its own, as where every axis of a
            grid has its own block of channels (Gemma 4 vision); tables hold the pairs of the blocks one after another.
        implementation: None chooses the fastest form known for the platform, dtype and layout; otherwise one of
            IMPLEMENTATIONS.

    Raises:
        ValueError: for an unknown layout, head axis or implementation, or shapes that do not fit, with the shapes.
    """
    return _rotate_together((x,), rotation, layout, head_axis, start, blocks, implementation)[0]


def rotate_qk(
    q: Float[Array, "*query_shape"],
    k: Float[Array, "*key_shape"],
    rotation: Rotation,
    rotation_k: Rotation | None = None,
    *,
    layout: str | None,
    head_axis: int | None = -2,
    start: int = 0,
    blocks: int = 1,
    implementation: str | None = None,
) -> tuple[Float[Array, "*query_shape"], Float[Array, "*key_shape"]]:
    """Rotates queries and keys, which may differ in their number of heads (equation 16; values are never rotated).

    With `implementation="pallas"` one kernel rotates both in one pass where they share tables, rank and channels.

    Args:
        q: queries, as `x` of `rotate`.
        k: keys, as `x` of `rotate`.
        rotation: tables of the queries, and of the keys unless `rotation_k` is given.
        rotation_k: tables of the keys, where their positions differ from those of the queries.
        layout: as in `rotate`.
        head_axis: as in `rotate`.
        start: as in `rotate`.
        blocks: as in `rotate`.
        implementation: as in `rotate`.
    """
    place = layout, head_axis, start, blocks, implementation
    if rotation_k is None and q.ndim == k.ndim and q.shape[-1] == k.shape[-1]:
        return _rotate_together((q, k), rotation, *place)
    (rotated_q,) = _rotate_together((q,), rotation, *place)
    (rotated_k,) = _rotate_together((k,), rotation if rotation_k is None else rotation_k, *place)
    return rotated_q, rotated_k


def _rotate_together(
    arrays: tuple[Array, ...],
    rotation: Rotation,
    layout: str | None,
    head_axis: int | None,
    start: int,
    blocks: int,
    implementation: str | None,
) -> tuple[Array, ...]:
    """Rotates arrays of one rank and number of channels by the same tables, once all have been checked."""
    source, target = read_and_written(layout)
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(f"unknown implementation {implementation!r}; there are {', '.join(IMPLEMENTATIONS)} and None")
    for x in arrays:
        _check_shapes(x.shape, rotation.cos.shape, head_axis)
    start = _first_channel(arrays[0].shape, rotation.cos.shape[-1], start, blocks)
    compute_dtype = jnp.float64 if arrays[0].dtype == jnp.float64 else jnp.float32
    cos, sin = (_align(table.astype(compute_dtype), arrays[0].ndim, head_axis) for table in rotation)
    return _rotate(arrays, cos, sin, _Place(source, target, start, blocks, implementation))


class _Place(NamedTuple):
    """Which channels turn, how their pairs are read and written, and by which form: static and hashable."""

    source: str
    target: str
    start: int
    blocks: int
    implementation: str | None

    def transposed(self) -> "_Place":
        """Returns the place of the transposed map, which reads what this one writes."""
        return self._replace(source=self.target, target=self.source)


@partial(jax.jit, static_argnames="place", inline=True)
def _rotate_arrays(arrays: tuple[Array, ...], cos: Array, sin: Array, place: _Place) -> tuple[Array, ...]:
    """The map itself, with tables of the rank of the arrays: equation 34."""
    if place.implementation == "pallas" and place.blocks == 1:
        from roformer_jax.rope.kernels import rotate_arrays  # Pallas takes longer to import than all of this library

        return rotate_arrays(arrays, cos, sin, place.source, place.target, place.start)
    return tuple(_rotate_channels(x, cos, sin, place) for x in arrays)


def _rotate_channels(x: Array, cos: Array, sin: Array, place: _Place) -> Array:
    """Rotates the channels that turn, and leaves the others as they are."""
    channels = 2 * cos.shape[-1]
    stop = place.start + channels
    if channels == x.shape[-1]:
        return _rotate_blocks(x, cos, sin, place)
    rotated = _rotate_blocks(x[..., place.start : stop], cos, sin, place)
    return jnp.concatenate([x[..., : place.start], rotated, x[..., stop:]], axis=-1)


def _rotate_blocks(x: Array, cos: Array, sin: Array, place: _Place) -> Array:
    """Rotates every block of channels on its own."""
    if place.blocks == 1:
        return rotate_pairs(x, cos, sin, place.source, place.target, place.implementation)
    x_blocks, *tables = (array.reshape(*array.shape[:-1], place.blocks, -1) for array in (x, cos, sin))
    return rotate_pairs(x_blocks, *tables, place.source, place.target, place.implementation).reshape(x.shape)


_rotate = jax.custom_vjp(_rotate_arrays, nondiff_argnums=(3,))


def _forward(arrays, cos, sin, place):
    """Keeps the arrays only if the tables are differentiated too."""
    values = tuple(x.value for x in arrays)
    kept = values if cos.perturbed or sin.perturbed else None
    return _rotate(values, cos.value, sin.value, place), (kept, cos.value, sin.value)


def _backward(place, residuals, cotangents):
    """Rotates the cotangents back by the conjugate; differentiates the plain formula for the tables."""
    arrays, cos, sin = residuals
    zero = jax.custom_derivatives.SymbolicZero
    live = [i for i, cotangent in enumerate(cotangents) if not isinstance(cotangent, zero)]
    if not live:
        return (None,) * len(cotangents), None, None
    given = tuple(cotangents[i] for i in live)
    turned_back = dict(zip(live, _rotate(given, cos, -sin, place.transposed()), strict=True))
    of_arrays = tuple(turned_back.get(i) for i in range(len(cotangents)))
    if arrays is None:
        return of_arrays, None, None
    live_arrays, plain = tuple(arrays[i] for i in live), place._replace(implementation="stack")
    _, table_vjp = jax.vjp(lambda cos, sin: _rotate_arrays(live_arrays, cos, sin, plain), cos, sin)
    return of_arrays, *table_vjp(given)


_rotate.defvjp(_forward, _backward, symbolic_zeros=True)


def _align(table: Array, axes: int, head_axis: int | None) -> Array:
    """Gives a table [..., L, F] the rank of `x`: a unit axis for the heads and for each missing batch axis."""
    if head_axis is not None:
        table = jnp.expand_dims(table, head_axis)
    return jnp.expand_dims(table, tuple(range(axes - table.ndim)))


def _check_shapes(x_shape: tuple[int, ...], table_shape: tuple[int, ...], head_axis: int | None) -> None:
    """Raises a ValueError with both shapes unless the positions of the table are those of `x`."""
    if head_axis not in HEAD_AXES:
        raise ValueError(f"head_axis must be one of {HEAD_AXES} (None: no heads), got {head_axis}")
    positions = table_shape[:-1]
    expected = tuple(size for axis, size in enumerate(x_shape, -len(x_shape)) if axis not in (-1, head_axis))
    fits = (
        1 <= len(positions) <= len(expected)
        and positions[-1] == expected[-1]
        and all(p in (1, e) for p, e in zip(reversed(positions), reversed(expected), strict=False))
    )
    if not fits:
        raise ValueError(
            f"x of shape {x_shape} with head_axis={head_axis} has positions of shape {expected}, "
            f"but the rotation was made for positions of shape {positions} (tables of shape {table_shape})"
        )


def _first_channel(x_shape: tuple[int, ...], pairs: int, start: int, blocks: int) -> int:
    """Returns the first channel that turns, counted from 0.

    Raises:
        ValueError: unless the 2F channels from `start` on lie in `x`, and fall into that many blocks of whole pairs.
    """
    head_dim = x_shape[-1]
    first = start + head_dim if start < 0 else start
    if first < 0 or first + 2 * pairs > head_dim:
        raise ValueError(
            f"the rotation turns {2 * pairs} channels ({pairs} pairs) from channel {start} on, "
            f"but x of shape {x_shape} has {head_dim} channels per head"
        )
    if blocks < 1 or pairs % blocks:
        raise ValueError(f"{pairs} rotary pairs do not fall into {blocks} equal blocks")
    return first
