"""Dropout whose random bits cost little, and are drawn where the array lies."""

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Bool, Float, PRNGKeyArray, UInt

RATES = 1 << 16  # rates are multiples of 1 / RATES: 16 random bits decide on an element


def dropout(x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Sets each element to zero with probability `rate`, scales the rest so that the mean stays; without a key, x.

    The rate is rounded to a multiple of 2^-16 (0.1 to 0.100006), and the scale is that of the rounded one. What is
    dropped depends on key and shape, not on how `x` is split over devices; its last axis lies whole on each.
    """
    dropped = min(round(rate * RATES), RATES - 1)
    if key is None or dropped == 0:
        return x
    scale = jnp.asarray(RATES / (RATES - dropped), x.dtype)
    return jnp.where(_kept(key, dropped, x), x * scale, jnp.zeros_like(x))


def _kept(key: PRNGKeyArray, dropped: int, x: Array) -> Bool[Array, "*shape"]:
    """True for all but `dropped` in `RATES` elements.

    The number of an element's row, then its place in the row, are mixed into bits drawn from the key: some ten integer
    operations for two elements, where the Threefry of `jax.random` takes over a hundred for each.
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    last = x.shape[-1]
    columns = jax.lax.broadcasted_iota(jnp.uint32, (*(1,) * (x.ndim - 1), -(-last // 2)), x.ndim - 1)
    bits = _mixed(_mixed(_row_numbers(x) ^ seeds[0]) ^ columns ^ seeds[1])
    halves = jax.lax.bitcast_convert_type(bits, jnp.uint16).reshape(*x.shape[:-1], -1)
    return halves[..., :last] >= dropped


def _row_numbers(x: Array) -> UInt[Array, "*leading 1"]:
    """0, 1, 2, ... for the rows of an array, modulo 2^32, split over the devices as they are."""
    numbers = jnp.zeros_like(x[..., :1], jnp.uint32)
    for axis, size in enumerate(x.shape[:-1]):
        here = jax.lax.broadcasted_iota(jnp.uint32, numbers.shape, axis, out_sharding=jax.typeof(numbers).sharding)
        numbers = numbers * size + here
    return numbers


def _mixed(bits: UInt[Array, "*shape"]) -> UInt[Array, "*shape"]:
    """A permutation of 32 bits each of which depends on all: `lowbias32` of Wellons' hash prospector."""
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
