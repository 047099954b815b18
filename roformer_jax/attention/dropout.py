"""Dropout whose random bits cost little, and are drawn where the array lies."""

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Bool, Float, PRNGKeyArray, UInt

RATES = 1 << 32  # rates are multiples of 1 / RATES


def dropout(x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Sets each element to zero with probability `rate`, scales the rest by 1 / (1 - rate); without a key, x itself.

    What is dropped depends on key and shape, not on how `x` is split over devices.
    """
    if key is None or rate == 0.0:
        return x
    return jnp.where(_kept(key, rate, x), x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros_like(x))


def _kept(key: PRNGKeyArray, rate: float, x: Array) -> Bool[Array, "*shape"]:
    """False with probability `rate`.

    The number of an element's row, then its place in the row, are mixed into bits drawn from the key: some ten integer
    operations, where the Threefry of `jax.random` takes over a hundred.
    """
    seeds = jax.random.bits(key, (2,), jnp.uint32)
    columns = jax.lax.broadcasted_iota(jnp.uint32, (*(1,) * (x.ndim - 1), x.shape[-1]), x.ndim - 1)
    bits = _mixed(_mixed(_row_numbers(x) ^ seeds[0]) ^ columns ^ seeds[1])
    return bits >= np.uint32(min(round(rate * RATES), RATES - 1))


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
