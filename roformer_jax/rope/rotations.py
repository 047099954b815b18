"""Rotations: positions and frequencies become one table of (cos, sin), exact at any integer position."""

from __future__ import annotations

import functools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Float, Int, Shaped

TURN = 2 * math.pi  # radians
PHASE_STEPS = 2.0**32  # one turn is counted in steps of a uint32, whose overflow is exactly the wrap of the circle


class Rotation(NamedTuple):
    """One complex number per position and rotary pair: pair z of position m becomes `(cos + i sin) z`.

    A pytree of two float32 arrays [..., L, F], or [..., L, H, F] where every head has its own. The modulus is 1 for
    plain RoPE, but every method holds for any modulus that is not 0.
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
    positions: Shaped[Array | np.ndarray, "*batch"],
    freqs: Float[Array | np.ndarray, "*axes pairs"],
    *,
    gain: float | Float[Array, ""] = 1.0,
    exact: bool = True,
) -> Rotation:
    """Returns the rotation by `positions * freqs` radians (equation 13), for every position and pair.

    With `exact=True` the angle is accumulated as a 32-bit integer phase: `phase(m) - phase(n) == phase(m - n)` holds
    bit for bit, so attention depends on relative positions alone, however large they are, where a float32 product is
    0.05 radians off at position 2^20. The absolute error is at most `|position| * 2^-33` turns when `freqs` is a NumPy
    array (increments computed in float64); a traced or JAX `freqs` carries its own float32 rounding. Integer phases
    have no gradient: to learn frequencies, use `exact=False`.

    Args:
        positions: integers (signed or unsigned, any offset) in tokens; floats are allowed with `exact=False`. One axis,
            the text: [..., L]. A axes, as in images and M-RoPE: [..., L, A].
        freqs: radians per token, as from `frequencies`. [F] for positions [..., L]; [A, F] for positions [..., L, A],
            whose angles are summed over the axes; [A, H, F] where every head has its own (`mixed_frequencies`).
        gain: modulus of the rotation, the attention temperature of YaRN and LongRoPE (positive).
        exact: integer phases; False multiplies in float32, as most implementations do.

    Returns:
        Rotation of float32 [..., L, F]; [..., L, H, F] for freqs [A, H, F].

    Raises:
        ValueError: if the axes of positions and `freqs` do not fit, positions are not integers with `exact=True`, or
            `gain` is a host number that is not positive.
    """
    if exact and not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(
            f"exact=True counts phases in integers, but positions are {positions.dtype}; "
            "pass integer positions, or exact=False for a float32 product"
        )
    if isinstance(gain, float | int) and not (gain > 0 and math.isfinite(gain)):
        raise ValueError(f"gain must be positive and finite, got {gain}")
    angles = _exact_angles(positions, freqs) if exact else _float_angles(positions, freqs)
    plain = _unit_rotation(angles)
    if isinstance(gain, float | int) and gain == 1:
        return plain
    gain = jnp.asarray(gain, jnp.float32)
    return Rotation(plain.cos * gain, plain.sin * gain)


def rotation_from_angles(
    angles: Float[Array | np.ndarray, "*batch pairs"], *, log_modulus: Float[Array, "*#batch #pairs"] | None = None
) -> Rotation:
    """Returns the rotation by given angles, for rotations that depend on the data.

    Selective RoPE (arXiv 2511.17388) and Mamba-3 accumulate their angles over the sequence: pass the cumulative sum.

    Args:
        angles: radians [..., L, F] or [..., L, H, F]; computed in float32. Keep them small: a float32 angle of 2^20
            radians is rounded by up to 0.06 radians.
        log_modulus: natural logarithm of the modulus, broadcast to `angles`; None: 0, pure rotations.

    Returns:
        Rotation of float32, of the shape of `angles`.
    """
    plain = _unit_rotation(jnp.asarray(angles, jnp.float32))
    if log_modulus is None:
        return plain
    modulus = jnp.exp(log_modulus.astype(jnp.float32))
    return Rotation(plain.cos * modulus, plain.sin * modulus)


def xpos_rotation(
    positions: Int[Array | np.ndarray, "*batch length"],
    freqs: Float[Array | np.ndarray, "pairs"],
    *,
    scale_base: float = 512.0,
    gamma: float = 0.4,
) -> tuple[Rotation, Rotation]:
    """Returns the rotations of queries and of keys of xPos, under which scores decay with distance (arXiv 2212.10554).

    The modulus of pair i is `zeta_i^(m / scale_base)` for a query at position m and `zeta_i^(-n / scale_base)` for a
    key at n, with `zeta_i = (i / F + gamma) / (1 + gamma)`: a score is scaled by `zeta_i^((m - n) / scale_base)`
    and a cached key never changes. (The authors' code centres positions on the middle of the current sequence instead,
    which changes every cached key as the sequence grows.) float32 holds moduli up to |m| = 70 * scale_base; beyond,
    subtract a common offset from the positions of queries and keys, which changes no score.

    Args:
        positions: integers [..., L] in tokens.
        freqs: radians per token [F].
        scale_base: tokens over which the modulus falls by `zeta_i` (positive).
        gamma: keeps `zeta_i` from zero (positive).

    Raises:
        ValueError: as `rotation`, and if `scale_base` or `gamma` is not positive.
    """
    for name, value in (("scale_base", scale_base), ("gamma", gamma)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    turn = rotation(positions, freqs)
    pairs = freqs.shape[0]
    log_zeta = np.log((np.arange(pairs) / pairs + gamma) / (1 + gamma)) / scale_base
    log_modulus = _outer(jnp.asarray(positions, jnp.float32), jnp.asarray(log_zeta, jnp.float32))
    modulus_q, modulus_k = jnp.exp(log_modulus), jnp.exp(-log_modulus)
    return tuple(Rotation(turn.cos * modulus, turn.sin * modulus) for modulus in (modulus_q, modulus_k))


@jax.jit  # outside of a jit, compiled once for a shape
def _unit_rotation(angles: Array) -> Rotation:
    """Returns cos and sin of the angles, on CPU in a form that is not computed again for every head."""
    return Rotation(*jax.lax.platform_dependent(angles, cpu=_cos_sin_in_a_loop, default=_cos_sin))


def _cos_sin(angles: Array) -> tuple[Array, Array]:
    return jnp.cos(angles), jnp.sin(angles)


def _cos_sin_in_a_loop(angles: Array) -> tuple[Array, Array]:
    """A loop of two steps, cos and sin, whose result XLA has to write down.

    It would fuse plain calls into the rotation, which then computes them for every head, and 10 to 30 times slower.
    """
    parts = jax.lax.map(lambda is_sin: jax.lax.cond(is_sin, jnp.sin, jnp.cos, angles), np.array([False, True]))
    return parts[0], parts[1]


def _float_angles(positions: Array | np.ndarray, freqs: Array | np.ndarray) -> Array:
    """Returns the float32 product, in radians: its error grows with the position, and it has a gradient."""
    return _angles_by_axis(jnp.asarray(positions, jnp.float32), jnp.asarray(freqs, jnp.float32))


def _exact_angles(positions: Array | np.ndarray, freqs: Array | np.ndarray) -> Array:
    """Returns angles in [-pi, pi) from phases that wrap in uint32 as the circle does; negative positions included."""
    phases = _angles_by_axis(jnp.asarray(positions.astype(jnp.uint32)), _phase_increments(freqs))
    return jax.lax.bitcast_convert_type(phases, jnp.int32).astype(jnp.float32) * jnp.float32(TURN / PHASE_STEPS)


def _phase_increments(freqs: Array | np.ndarray) -> Array:
    """Returns the phase of one token in steps of 2^-32 turn, as uint32 of the shape of `freqs`."""
    if isinstance(freqs, np.ndarray):
        turns = freqs.astype(np.float64) / TURN
        steps = np.round((turns - np.round(turns)) * PHASE_STEPS)
        return jnp.asarray(steps.astype(np.int64).astype(np.uint32))
    turns = freqs.astype(jnp.float32) / jnp.float32(TURN)
    steps = jnp.round((turns - jnp.round(turns)) * jnp.float32(PHASE_STEPS))
    return jax.lax.bitcast_convert_type(steps.astype(jnp.int32), jnp.uint32)


def _angles_by_axis(positions: Array, per_pair: Array) -> Array:
    """Returns [..., L, F] from [..., L] and [F]; sums over A from [..., L, A] and [A, F] or [A, H, F]."""
    if per_pair.ndim == 1:
        return _outer(positions, per_pair)
    axes = per_pair.shape[0]
    if per_pair.ndim > 3 or positions.ndim < 2 or positions.shape[-1] != axes:
        raise ValueError(
            f"freqs of shape {per_pair.shape} are for positions [..., length, {axes}], got shape {positions.shape}; "
            "freqs are [pairs] for one axis, [axes, pairs] or [axes, heads, pairs] for several"
        )
    return functools.reduce(operator.add, (_outer(positions[..., a], per_pair[a]) for a in range(axes)))


def _outer(positions: Array, per_pair: Array) -> Array:
    """Multiplies every position by every frequency, elementwise: a matrix product may round operands to bfloat16."""
    unit = tuple(range(positions.ndim, positions.ndim + per_pair.ndim))
    return jnp.expand_dims(positions, unit) * jnp.expand_dims(per_pair, tuple(range(positions.ndim)))
