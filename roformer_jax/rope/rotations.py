"""Rotations: integer positions and frequencies become one table of (cos, sin), exact at any position."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Float, Shaped

TURN = 2 * math.pi  # radians
PHASE_STEPS = 2.0**32  # one turn is counted in steps of a uint32, whose overflow is exactly the wrap of the circle


class Rotation(NamedTuple):
    """One complex number per position and rotary pair: pair z of position m becomes `(cos + i sin) z`.

    A pytree of two float32 arrays [..., L, F]. The modulus is 1 for plain RoPE, but every method holds for any modulus.
    """

    cos: Array
    sin: Array

    def conj(self) -> Rotation:
        """Returns the transposed map: the rotation by -m, and the inverse when the modulus is 1."""
        return Rotation(self.cos, -self.sin)

    def inverse(self) -> Rotation:
        """Returns the map that undoes this one: the conjugate over the squared modulus."""
        modulus_squared = self.cos * self.cos + self.sin * self.sin
        return Rotation(self.cos / modulus_squared, -self.sin / modulus_squared)

    def __matmul__(self, other: Rotation) -> Rotation:
        """Composes two rotations (equation 16: R_m R_n = R_{m+n}), for example to move a cached key by a delta."""
        return Rotation(
            cos=self.cos * other.cos - self.sin * other.sin,
            sin=self.sin * other.cos + self.cos * other.sin,
        )


def rotation(
    positions: Shaped[Array | np.ndarray, "*batch length"],
    freqs: Float[Array | np.ndarray, "*axes pairs"],
    *,
    exact: bool = True,
) -> Rotation:
    """Returns the rotation by `positions * freqs` radians (equation 13), for every position and pair.

    With `exact=True` the angle is accumulated as a 32-bit integer phase: `phase(m) - phase(n) == phase(m - n)` holds
    bit for bit, so attention depends on relative positions alone, however large they are, where a float32 product is
    0.05 radians off at position 2^20. The absolute error is at most `|position| * 2^-33` turns when `freqs` is a NumPy
    array (increments computed in float64); a traced or JAX `freqs` carries its own float32 rounding. Integer phases
    have no gradient: to learn frequencies, use `exact=False`.

    Args:
        positions: integers (signed or unsigned, any offset) [..., L] in tokens; floats are allowed with `exact=False`.
        freqs: radians per token [F], as from `frequencies`.
        exact: integer phases; False multiplies in float32, as most implementations do.

    Returns:
        Rotation of float32 [..., L, F].

    Raises:
        ValueError: if `freqs` is not one-dimensional, or positions are not integers with `exact=True`.
    """
    if freqs.ndim != 1:
        raise ValueError(f"freqs must have one axis, the rotary pairs, got shape {freqs.shape}")
    if exact and not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(
            f"exact=True counts phases in integers, but positions are {positions.dtype}; "
            "pass integer positions, or exact=False for a float32 product"
        )
    angles = _exact_angles(positions, freqs) if exact else _float_angles(positions, freqs)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def _float_angles(positions: Array | np.ndarray, freqs: Array | np.ndarray) -> Array:
    """Returns the float32 product, in radians: its error grows with the position, and it has a gradient."""
    return _outer(jnp.asarray(positions, jnp.float32), jnp.asarray(freqs, jnp.float32))


def _exact_angles(positions: Array | np.ndarray, freqs: Array | np.ndarray) -> Array:
    """Returns angles in [-pi, pi) from phases that wrap in uint32 as the circle does; negative positions included."""
    phases = _outer(jnp.asarray(positions.astype(jnp.uint32)), _phase_increments(freqs))
    return jax.lax.bitcast_convert_type(phases, jnp.int32).astype(jnp.float32) * jnp.float32(TURN / PHASE_STEPS)


def _phase_increments(freqs: Array | np.ndarray) -> Array:
    """Returns the phase of one token in steps of 2^-32 turn, as uint32 [F]."""
    if isinstance(freqs, np.ndarray):
        turns = freqs.astype(np.float64) / TURN
        steps = np.round((turns - np.round(turns)) * PHASE_STEPS)
        return jnp.asarray(steps.astype(np.int64).astype(np.uint32))
    turns = freqs.astype(jnp.float32) / jnp.float32(TURN)
    steps = jnp.round((turns - jnp.round(turns)) * jnp.float32(PHASE_STEPS))
    return jax.lax.bitcast_convert_type(steps.astype(jnp.int32), jnp.uint32)


def _outer(positions: Array, per_pair: Array) -> Array:
    """Multiplies [..., L] and [F] to [..., L, F], elementwise: a matrix product may round its operands to bfloat16."""
    return positions[..., None] * jnp.expand_dims(per_pair, tuple(range(positions.ndim)))
