"""Spectra: the angular frequency of every rotary pair, in float64 on the host or traced in float32."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Float, Shaped

Scalar = float | int | Shaped[Array, ""]
Spectrum = Float[Array | np.ndarray, "pairs"]


def frequencies(dim: int, theta: Scalar = 10_000.0, *, keep: float = 1.0) -> Spectrum:
    """Returns the frequencies of equation 15: `theta_i = theta^(-2i / dim)` for i = 0 .. dim/2 - 1.

    The result stays NumPy float64, so that `rotation` can compute exact phase increments on the host; it becomes
    float32 once it is passed through `jax.jit` as an argument. A `theta` that is a JAX array may be traced and
    differentiated, and gives float32: every function of spectra follows this rule.

    Args:
        dim: number of rotated channels of one head (even, positive); the paper rotates all of them.
        theta: base of the geometric series (positive); the longest wavelength is almost `2 pi theta` tokens.
        keep: fraction of the pairs that rotate, in (0, 1]: the first `floor(keep * dim / 2)` frequencies stay and the
            rest are 0. p-RoPE (arXiv 2410.06205), `proportional` of Hugging Face: Gemma 4 keeps 0.25 of them.

    Returns:
        [dim / 2], radians per token, falling from 1.

    Raises:
        ValueError: if `dim` is odd or not positive, `theta` not positive and finite, or `keep` outside (0, 1].
    """
    if dim <= 0 or dim % 2:
        raise ValueError(f"dim must be a positive even number of channels (they rotate in pairs), got {dim}")
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a fraction of the pairs in (0, 1], got {keep}")
    check_positive(theta=theta)
    xp, theta = on_host_or_traced(theta)
    freqs = theta ** xp.asarray(-np.arange(0, dim, 2) / dim, theta.dtype)
    return xp.where(np.arange(dim // 2) < math.floor(keep * dim / 2), freqs, xp.zeros_like(freqs))


def on_host_or_traced(*values: Scalar | Spectrum | Sequence[float | int]) -> tuple[Any, ...]:
    """Returns the library to compute with, and the values as its arrays: NumPy float64, JAX float32 if one is JAX's."""
    traced = any(isinstance(value, jax.Array) for value in values)
    xp, dtype = (jnp, jnp.float32) if traced else (np, np.float64)
    return xp, *(xp.asarray(value, dtype) for value in values)


def check_positive(at_least: float | int = 0, **values: Scalar) -> None:
    """Raises a ValueError that names the first value on the host not finite, positive and `at_least` this large."""
    for name, value in values.items():
        if not isinstance(value, jax.Array) and not (at_least <= value < math.inf and value > 0):
            bound = f"at least {at_least:g}" if at_least else "positive"
            raise ValueError(f"{name} must be {bound} and finite, got {value}")
