"""Pallas kernels that rotate queries and keys in one pass and in place: Mosaic for TPUs, Triton for GPUs."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from roformer_jax.rope.forms import exchanges, for_each_channel
from roformer_jax.typing import Array

TPU_BLOCK = 256  # tiles of 8 heads by 128 channels, of all arrays, in one step: twice as many overflow the memory
GPU_BLOCK = 16  # positions in one program


def rotate_arrays(
    arrays: tuple[Array, ...], cos: Array, sin: Array, source: str, target: str, start: int = 0
) -> tuple[Array, ...]:
    """Rotates arrays that share their positions, each in place, reading the tables once.

    Compiled for TPU and CUDA; interpreted, far slower, on any other platform. The rotation is computed in float32. On
    a mesh, kernels run inside `jax.shard_map(.., check_vma=False)` only.

    Args:
        arrays: [..., L, H, D], or [..., H, L, D]; their numbers of heads may differ, their dtype and D may not.
        cos: float32, with the rank of the arrays and 1 for the axis of the heads: [..., L, 1, F] or [..., 1, L, F].
        sin: as cos.
        source: layout in which pairs are read.
        target: layout in which they are written.
        start: first of the 2F channels that turn; the others pass through.

    Raises:
        ValueError: unless F is a power of two (as Triton wants it), the arrays are all bfloat16 or all float32, and the
            heads share one table.
    """
    _check(arrays, cos)
    leading = arrays[0].shape[:-3]
    fours = tuple(jnp.reshape(array, (math.prod(leading), *array.shape[-3:])) for array in arrays)
    tables = [_four_axes(table, leading) for table in (cos, sin)]
    place = {"source": source, "target": target, "start": start}
    branches = {
        "tpu": partial(_mosaic, **place),
        "cuda": partial(_triton, **place),
        "default": partial(_triton, **place, interpret=True),
    }
    rotated = jax.lax.platform_dependent(fours, *tables, **branches)
    return tuple(jnp.reshape(new, old.shape) for new, old in zip(rotated, arrays, strict=True))


def _mosaic(arrays, cos, sin, *, source, target, start):
    """Exchanges the members of pairs by a matrix product, as `forms.matmul` does, on whole vectors of D channels."""
    head_dim, channels = arrays[0].shape[-1], 2 * cos.shape[-1]
    outside = ((0, 0),) * (cos.ndim - 1) + ((start, head_dim - start - channels),)
    cos = jnp.pad(for_each_channel(cos, target), outside, constant_values=1)
    sin = jnp.pad(for_each_channel(sin, target), outside)
    keep, turn = np.eye(head_dim), np.zeros((head_dim, head_dim))
    turning = slice(start, start + channels)
    keep[turning, turning], turn[turning, turning] = exchanges(channels // 2, source, target)
    matrices = [jnp.asarray(matrix, arrays[0].dtype) for matrix in (keep, turn)]
    heads_axis = 3 - _length_axis(arrays, cos)
    tiles = sum(pl.cdiv(array.shape[heads_axis], 8) * pl.cdiv(head_dim, 128) for array in arrays)
    length = 2 ** int(math.log2(max(TPU_BLOCK // tiles, 8)))
    return _call(_mosaic_kernel, arrays, (cos, sin), matrices, length)


def _mosaic_kernel(cos_ref, sin_ref, keep_ref, turn_ref, *refs):
    """Rotates one block of every array."""
    cos, sin = cos_ref[...], sin_ref[...]
    precision = "default" if keep_ref.dtype == jnp.bfloat16 else "highest"
    for x_ref, out_ref in zip(refs[: len(refs) // 2], refs[len(refs) // 2 :], strict=True):
        rows = x_ref[...].reshape(-1, x_ref.shape[-1])
        kept, turned = (
            jnp.dot(rows, ref[...], precision=precision, preferred_element_type=jnp.float32).reshape(x_ref.shape)
            for ref in (keep_ref, turn_ref)
        )
        out_ref[...] = (kept * cos + turned * sin).astype(out_ref.dtype)


def _triton(arrays, cos, sin, *, source, target, start, interpret=False):
    """Reads and writes the members of pairs one by one, head after head; the other channels are not touched at all."""
    length_axis = _length_axis(arrays, cos)
    kernel = partial(_triton_kernel, source=source, target=target, start=start, heads_axis=3 - length_axis)
    length = math.gcd(cos.shape[length_axis], GPU_BLOCK)  # Triton does not mask what lies outside of the arrays
    parameters = triton.CompilerParams(num_warps=4)
    return _call(kernel, arrays, (cos, sin), (), length, interpret=interpret, compiler_params=parameters)


def _triton_kernel(cos_ref, sin_ref, *refs, source, target, start, heads_axis):
    """Rotates one block of positions of every array."""
    pairs = cos_ref.shape[-1]

    def member(layout, which):
        return pl.ds(start + which, pairs, 2) if layout == "interleaved" else pl.ds(start + which * pairs, pairs)

    def one_head(index, channels):
        place = [slice(None), slice(None), slice(None), channels]
        place[heads_axis] = pl.ds(index, 1)
        return tuple(place)

    cos, sin = cos_ref[...], sin_ref[...]
    for x_ref, out_ref in zip(refs[: len(refs) // 2], refs[len(refs) // 2 :], strict=True):

        @pl.loop(0, x_ref.shape[heads_axis])
        def _(index, x_ref=x_ref, out_ref=out_ref):
            real, imaginary = (x_ref[one_head(index, member(source, i))].astype(cos.dtype) for i in (0, 1))
            rotated = real * cos - imaginary * sin, real * sin + imaginary * cos
            for i, new in enumerate(rotated):
                out_ref[one_head(index, member(target, i))] = new.astype(out_ref.dtype)


def _call(kernel, arrays, tables, matrices, length, **how):
    """Runs a kernel over the batch and over blocks of `length` positions, each array aliased to its result."""
    length_axis = _length_axis(arrays, tables[0])
    length = min(length, tables[0].shape[length_axis])
    block = partial(_block, length_axis=length_axis, length=length)
    shared = [*map(block, tables), *(pl.BlockSpec(matrix.shape, lambda *_: (0, 0)) for matrix in matrices)]
    return pl.pallas_call(
        kernel,
        grid=(arrays[0].shape[0], pl.cdiv(tables[0].shape[length_axis], length)),
        in_specs=[*shared, *map(block, arrays)],
        out_specs=[*map(block, arrays)],
        out_shape=[jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays],
        input_output_aliases={len(shared) + i: i for i in range(len(arrays))},
        cost_estimate=_cost(arrays, tables),
        **how,
    )(*tables, *matrices, *arrays)


def _block(array: Array, *, length_axis: int, length: int) -> pl.BlockSpec:
    """Cuts an array or table of four axes along its batch and its length; a table without a batch serves every row."""
    sizes = [1, *array.shape[1:]]
    sizes[length_axis] = length

    def place(batch, step):
        first = batch if array.shape[0] > 1 else 0
        return (first, step, 0, 0) if length_axis == 1 else (first, 0, step, 0)

    return pl.BlockSpec(tuple(sizes), place)


def _cost(arrays, tables) -> pl.CostEstimate:
    """Tells XLA what the kernel moves: every array is read and written once, every table read once for each row."""
    rows = arrays[0].shape[0]
    moved = sum(2 * array.nbytes for array in arrays) + sum(table.nbytes // table.shape[0] * rows for table in tables)
    return pl.CostEstimate(flops=3 * sum(array.size for array in arrays), bytes_accessed=moved, transcendentals=0)


def _length_axis(arrays: tuple[Array, ...], table: Array) -> int:
    """Returns which of four axes holds the positions, 1 or 2: there, arrays and table have the same size."""
    return 1 if table.shape[2] == 1 and all(array.shape[1] == table.shape[1] for array in arrays) else 2


def _four_axes(table: Array, leading: tuple[int, ...]) -> Array:
    """Merges the batch axes of a table into one, of size 1 where every row has the same table."""
    if math.prod(table.shape[:-3]) == 1:
        return jnp.reshape(table, (1, *table.shape[-3:]))
    return jnp.reshape(jnp.broadcast_to(table, (*leading, *table.shape[-3:])), (-1, *table.shape[-3:]))


def _check(arrays: tuple[Array, ...], cos: Array) -> None:
    """Raises a ValueError with the shapes where no kernel was written for them."""
    pairs, dtypes = cos.shape[-1], [str(array.dtype) for array in arrays]
    if pairs & (pairs - 1):
        raise ValueError(f"implementation='pallas' rotates a power of two of pairs, got {pairs}; 'stack' rotates any")
    if set(dtypes) not in ({"bfloat16"}, {"float32"}):
        raise ValueError(f"implementation='pallas' rotates bfloat16 or float32, got {', '.join(dtypes)}")
    if cos.ndim < 3 or 1 not in cos.shape[-3:-1]:
        raise ValueError(f"implementation='pallas' wants one table for all heads, got tables of shape {cos.shape}")
