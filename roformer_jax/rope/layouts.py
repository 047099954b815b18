"""Layouts: which two channels form a rotary pair, and how to carry weights from one convention to the other."""

from typing import TypeVar

import numpy as np

from roformer_jax.typing import Array

PAIR_AXES = {"interleaved": -1, "half": -2}
CROSSINGS = {"interleaved_to_half": ("interleaved", "half"), "half_to_interleaved": ("half", "interleaved")}

Kernel = TypeVar("Kernel", Array, np.ndarray)


def pair_axis(layout: str) -> int:
    """Returns which of the last two axes holds the members of a pair once channels are split: (F, 2) or (2, F).

    Raises:
        ValueError: if the layout is unknown.
    """
    if layout not in PAIR_AXES:
        raise ValueError(f"unknown layout {layout!r}; the layouts are {', '.join(map(repr, PAIR_AXES))}")
    return PAIR_AXES[layout]


def read_and_written(layout: str | None) -> tuple[str, str]:
    """Returns the layout in which a rotation reads its pairs, and the one in which it writes them.

    Raises:
        ValueError: if the layout is unknown.
    """
    if layout in CROSSINGS:
        return CROSSINGS[layout]
    if layout in PAIR_AXES:
        return layout, layout
    raise ValueError(f"unknown layout {layout!r}; the layouts are {', '.join(map(repr, (*PAIR_AXES, *CROSSINGS)))}")


def convert_layout(
    kernel: Kernel,
    source: str,
    target: str,
    *,
    num_heads: int,
    axis: int = -1,
    rotary_dim: int | None = None,
    start: int = 0,
) -> Kernel:
    """Reorders the output channels of a query or key projection for another layout.

    `rotate(x @ kernel, layout=source)` and `rotate(x @ converted, layout=target)` then give the same attention scores.
    Swapping `source` and `target` undoes it bit for bit. Values and the output projection need no conversion; all that
    comes between a projection and its scores does:

        q_kernel = convert_layout(q_kernel, source, target, num_heads=heads)               # [M, H * D]
        k_kernel = convert_layout(k_kernel, source, target, num_heads=kv_heads)            # [M, K * D]
        q_bias = convert_layout(q_bias, source, target, num_heads=heads)                   # [H * D]
        q_scale = convert_layout(q_scale, source, target, num_heads=1)                     # qk-norm [D]
        k_cache = convert_layout(k_cache, source, target, num_heads=1)                     # rotated keys [B, S, K, D]

    PyTorch's kernels [H * D, M] take `axis=0`. A fused kernel is split into its q, k and v, and put together again.
    Weights for "interleaved_to_half" have the layout it reads, "interleaved"; the keys it has rotated, "half".

    Args:
        kernel: array of any rank, NumPy or JAX; `axis` holds num_heads * head_dim entries, head by head.
        source: layout of the array.
        target: layout wanted.
        num_heads: heads on `axis`: for a key projection with grouped queries, the key-value heads; 1 where the heads
            have an axis of their own, or share the entries. Channels of `rotate(.., blocks=n)`: n times as many.
        axis: the output channels.
        rotary_dim: rotated channels of each head (even); None: all from `start` on.
        start: first rotated channel of each head; negative counts from the end, as in `rotate`.

    Raises:
        ValueError: for an unknown layout, an axis that the heads do not divide, or impossible rotated channels.
    """
    swapped = pair_axis(source) != pair_axis(target)
    size = kernel.shape[axis]
    if num_heads <= 0 or size % num_heads:
        raise ValueError(f"axis {axis} of shape {kernel.shape} has {size} entries, not a multiple of {num_heads} heads")
    head_dim = size // num_heads
    rotary = _rotary_slice(head_dim, rotary_dim, start)
    if not swapped:
        return kernel
    order = np.arange(head_dim)
    split = (-1, 2) if source == "interleaved" else (2, -1)
    order[rotary] = order[rotary].reshape(split).T.ravel()
    before, after = kernel.shape[: axis % kernel.ndim], kernel.shape[axis % kernel.ndim + 1 :]
    # The heads get an axis of their own, along which the array may be sharded while the channels are reordered.
    per_head = kernel.reshape(*before, num_heads, head_dim, *after)
    return per_head[(slice(None),) * (len(before) + 1) + (order,)].reshape(kernel.shape)


def _rotary_slice(head_dim: int, rotary_dim: int | None, start: int) -> slice:
    """Returns the rotated channels of a head, or raises a ValueError where they are odd or outside of it."""
    first = start + head_dim if start < 0 else start
    stop = head_dim if rotary_dim is None else first + rotary_dim
    if not 0 <= first < stop <= head_dim or (stop - first) % 2:
        raise ValueError(
            f"start={start} and rotary_dim={rotary_dim} must name a positive even number of channels "
            f"inside a head of {head_dim}"
        )
    return slice(first, stop)
