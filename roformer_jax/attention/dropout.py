"""Dropout whose random bits are drawn where the array lies."""

import jax
import jax.numpy as jnp

from roformer_jax.typing import Array, Float, PRNGKeyArray


def dropout(x: Float[Array, "*shape"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Sets each element to zero with probability `rate`, scales the rest by 1 / (1 - rate); without a key, x itself."""
    if key is None or rate == 0.0:
        return x
    # The sharding of x: without it every device of an explicit mesh would draw the bits of the whole array.
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape, out_sharding=jax.typeof(x).sharding)
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros_like(x))
