"""Forms: ways to write one and the same rotation for XLA, which compiles them to very different code.

Every form takes `x` [..., 2F], all of whose channels turn, tables of the rank of `x` that broadcast to [..., F], and
the layouts in which pairs are read and written; it computes in the tables' dtype and returns `x.dtype`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.rope.layouts import pair_axis
from roformer_jax.typing import Array


def stack(x: Array, cos: Array, sin: Array, source: str, target: str) -> Array:
    """Splits the channels by a reshape and joins them by one stack: a single pass over memory on GPU."""
    return _stack_pairs(x, cos, sin, source, target).reshape(x.shape)


def _stack_pairs(x: Array, cos: Array, sin: Array, source: str, target: str) -> Array:
    """Returns the pairs [..., F, 2] or [..., 2, F], not yet made one axis of channels."""
    split = x.astype(cos.dtype).reshape(*x.shape[:-1], *_members(cos.shape[-1], source))
    real, imaginary = jnp.unstack(split, axis=pair_axis(source))
    rotated = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], pair_axis(target))
    return rotated.astype(x.dtype)


def flip(x: Array, cos: Array, sin: Array) -> Array:
    """Adds interleaved pairs times (cos, cos) to exchanged pairs times (-sin, sin): equation 34.

    XLA:CPU writes the operands of `stack` in two sweeps over memory, and this in one.
    """
    pairs = x.astype(cos.dtype).reshape(*x.shape[:-1], -1, 2)
    rotated = pairs * jnp.stack([cos, cos], -1) + pairs[..., ::-1] * jnp.stack([-sin, sin], -1)
    return rotated.reshape(x.shape).astype(x.dtype)


def stack_in_halves(x: Array, cos: Array, sin: Array, source: str, target: str) -> Array:
    """Joins two halves of the vectors of 16-bit channels: XLA:CPU then writes whole pairs, in one sweep over memory.

    It writes each operand of the outermost concatenation in a loop, and a sweep, of its own: the first members of all
    pairs and then the second, or the two halves. Bits are joined, since XLA:CPU would join bfloat16 as float32.
    """
    known = (axis for axis, size in enumerate(x.shape[:-1]) if isinstance(size, int) and size > 1)  # not symbolic
    axis = next(known, None)
    if axis is None:
        return stack(x, cos, sin, source, target)
    bits = [
        jax.lax.bitcast_convert_type(_stack_pairs(*half, source, target), jnp.uint16)
        for half in zip(*(_halves(array, axis) for array in (x, cos, sin)), strict=True)
    ]
    return jax.lax.bitcast_convert_type(jnp.concatenate(bits, axis), x.dtype).reshape(x.shape)


def _halves(array: Array, axis: int) -> tuple[Array, Array]:
    """Cuts an axis in two; an axis of one entry, which is broadcast, belongs to both."""
    if array.shape[axis] == 1:
        return array, array
    first, second = jnp.split(array, [array.shape[axis] // 2], axis)
    return first, second


def matmul(x: Array, cos: Array, sin: Array, source: str, target: str) -> Array:
    """Exchanges the members of each pair by a matrix of 0, 1 and -1: TPUs multiply matrices faster than they reorder.

    XLA:TPU then fuses the rotation into the projection before it, where a reshape or a slice of channels is a pass over
    memory of its own. The exchange is exact, since every sum has one term that is not zero; but a channel that is not
    finite makes NaN of its whole vector.
    """
    keep, turn = exchanges(cos.shape[-1], source, target)
    kept = x if source == target else _times(x, keep)
    cos, sin = (for_each_channel(table, target) for table in (cos, sin))
    return (kept.astype(cos.dtype) * cos + _times(x, turn).astype(cos.dtype) * sin).astype(x.dtype)


def _members(pairs: int, layout: str) -> tuple[int, int]:
    """Returns the shape into which 2F channels split, so that `pair_axis` holds the two members of each pair."""
    return (pairs, 2) if layout == "interleaved" else (2, pairs)


def exchanges(pairs: int, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrices [2F, 2F] that carry pairs (a, b) of one layout to (a, b) and to (-b, a) of the other."""
    channels = np.eye(2 * pairs).reshape(2 * pairs, *_members(pairs, source))
    real, imaginary = (channels.take(member, pair_axis(source)) for member in (0, 1))
    keep, turn = (np.stack(pair, pair_axis(target)) for pair in ([real, imaginary], [-imaginary, real]))
    return keep.reshape(2 * pairs, -1), turn.reshape(2 * pairs, -1)


def _times(x: Array, exchange: np.ndarray) -> Array:
    """Multiplies without rounding: by default, TPUs would round float32 channels to bfloat16."""
    precision = "default" if x.dtype == jnp.bfloat16 else "highest"
    return jnp.matmul(x, jnp.asarray(exchange, x.dtype), precision=precision)


def for_each_channel(table: Array, layout: str) -> Array:
    """Repeats a table [..., F] for both members of each pair: [..., 2F]."""
    return jnp.stack([table, table], pair_axis(layout)).reshape(*table.shape[:-1], -1)


def pallas(x: Array, cos: Array, sin: Array, source: str, target: str) -> Array:
    """Rotates in place by a kernel for the platform: see `kernels.rotate_arrays`."""
    from roformer_jax.rope.kernels import rotate_arrays  # importing Pallas takes longer than importing the library may

    return rotate_arrays((x,), cos, sin, source, target)[0]


IMPLEMENTATIONS = {"stack": stack, "matmul": matmul, "pallas": pallas}


def rotate_pairs(x: Array, cos: Array, sin: Array, source: str, target: str, implementation: str | None) -> Array:
    """Rotates by the form of that name, or by the one that suits the platform compiled for."""
    if implementation is not None:
        return IMPLEMENTATIONS[implementation](x, cos, sin, source, target)
    forms = {"cpu": _on_cpu, "tpu": matmul, "default": stack}
    return jax.lax.platform_dependent(
        x, cos, sin, **{platform: partial(form, source=source, target=target) for platform, form in forms.items()}
    )


def _on_cpu(x: Array, cos: Array, sin: Array, source: str, target: str) -> Array:
    """Stacks to write halves, and by dtype to write interleaved pairs: see "Speed" in docs/rope.md.

    Halves of an axis that lies on several devices would have to be exchanged, so the cut is for one device only.
    """
    if target == "interleaved" and x.dtype.itemsize == 2 and jax.device_count() == 1:
        return stack_in_halves(x, cos, sin, source, target)
    if source == target == "interleaved" and x.dtype.itemsize > 2:
        return flip(x, cos, sin)
    return stack(x, cos, sin, source, target)
