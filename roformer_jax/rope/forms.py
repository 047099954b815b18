"""Forms: ways to write one and the same rotation for XLA, which compiles them to very different code.

Every form takes `x` [..., 2F], all of whose channels turn, tables of the rank of `x` that broadcast to [..., F], and
the layouts in which pairs are read and written; it computes in the tables' dtype and returns `x.dtype`.
"""

import jax.numpy as jnp

from roformer_jax.rope.layouts import pair_axis
from roformer_jax.typing import Array


def stack(x: Array, cos: Array, sin: Array, source: str, target: str) -> Array:
    """Splits the channels by a reshape and joins them by one stack: a single pass over memory on CPU and GPU."""
    pairs = cos.shape[-1]
    split = (pairs, 2) if source == "interleaved" else (2, pairs)
    real, imaginary = jnp.unstack(x.astype(cos.dtype).reshape(*x.shape[:-1], *split), axis=pair_axis(source))
    rotated = jnp.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], pair_axis(target))
    return rotated.reshape(x.shape).astype(x.dtype)


IMPLEMENTATIONS = {"stack": stack}


def rotate_pairs(x: Array, cos: Array, sin: Array, source: str, target: str, implementation: str | None) -> Array:
    """Rotates by the form of that name, or by the one that suits the platform compiled for."""
    return IMPLEMENTATIONS[implementation or "stack"](x, cos, sin, source, target)
