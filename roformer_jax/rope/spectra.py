"""Spectra: the angular frequency of every rotary pair, computed in float64 on the host."""

import math

import numpy as np

from roformer_jax.typing import Float


def frequencies(dim: int, theta: float = 10_000.0) -> Float[np.ndarray, "pairs"]:
    """Returns the frequencies of equation 15: `theta_i = theta^(-2i / dim)` for i = 0 .. dim/2 - 1.

    The result stays NumPy float64, so that `rotation` can compute exact phase increments on the host; it becomes
    float32 once it is passed through `jax.jit` as an argument.

    Args:
        dim: number of rotated channels of one head (even, positive); the paper rotates all of them.
        theta: base of the geometric series (positive); the longest wavelength is almost `2 pi theta` tokens.

    Returns:
        float64 [dim / 2], radians per token, falling from 1.

    Raises:
        ValueError: if `dim` is odd or not positive, or `theta` is not a positive finite number.
    """
    if dim <= 0 or dim % 2:
        raise ValueError(f"dim must be a positive even number of channels (they rotate in pairs), got {dim}")
    if not (theta > 0 and math.isfinite(theta)):
        raise ValueError(f"theta must be positive and finite, got {theta}")
    return np.float64(theta) ** (-np.arange(0, dim, 2) / dim)
