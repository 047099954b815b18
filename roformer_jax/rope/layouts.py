"""Layouts: which two channels form a rotary pair, and how to carry weights from one convention to the other."""

from typing import TypeVar

import numpy as np

from roformer_jax.typing import Array

PAIR_AXES = {"interleaved": -1, "half": -2}

Kernel = TypeVar("Kernel", Array, np.ndarray)


def pair_axis(layout: str) -> int:
    """Returns which of the last two axes holds the members of a pair once channels are split: (F, 2) or (2, F).

    Raises:
        ValueError: if the layout is unknown.
    """
    if layout not in PAIR_AXES:
        raise ValueError(f"unknown layout {layout!r}; the layouts are {', '.join(map(repr, PAIR_AXES))}")
    return PAIR_AXES[layout]


def convert_layout(
    kernel: Kernel, source: str, target: str, *, num_heads: int, axis: int = -1, rotary_dim: int | None = None
) -> Kernel:
    """Reorders the output channels of a query or key projection for another layout.

    `rotate(x @ kernel, layout=source)` and `rotate(x @ converted, layout=target)` then give the same attention scores.
    Swapping `source` and `target` undoes it bit for bit. Values and the output projection need no conversion.

    Args:
        kernel: weights or biases of any rank, NumPy or JAX; `axis` holds num_heads * head_dim entries, head by head.
        source: layout the weights were trained with.
        target: layout wanted.
        num_heads: heads on `axis`: for a key projection with grouped queries, the key-value heads.
        axis: the output channels.
        rotary_dim: rotated channels, the first of each head (even); None: all of them.

    Raises:
        ValueError: for an unknown layout, an axis that the heads do not divide, or an impossible `rotary_dim`.
    """
    swapped = pair_axis(source) != pair_axis(target)
    size = kernel.shape[axis]
    if num_heads <= 0 or size % num_heads:
        raise ValueError(f"axis {axis} of shape {kernel.shape} has {size} entries, not a multiple of {num_heads} heads")
    head_dim = size // num_heads
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ValueError(f"rotary_dim must be even and between 2 and the head size {head_dim}, got {rotary_dim}")
    if not swapped:
        return kernel
    split = (rotary_dim // 2, 2) if source == "interleaved" else (2, rotary_dim // 2)
    order = np.arange(size).reshape(num_heads, head_dim)
    order[:, :rotary_dim] = order[:, :rotary_dim].reshape(num_heads, *split).swapaxes(1, 2).reshape(num_heads, -1)
    return kernel[(slice(None),) * (axis % kernel.ndim) + (order.ravel(),)]
