"""What decoding remembers of the tokens that it has seen."""

from typing import NamedTuple

import jax.numpy as jnp

from roformer_jax.attention import LinearState
from roformer_jax.models.attention import KeyValues, nothing_seen, projections
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.typing import Array, Bool, Float, Int


class Cache(NamedTuple):
    """The tokens so far of every row, in every layer."""

    lengths: Int[Array, "batch"]
    """Tokens that each row has seen."""
    layers: KeyValues | LinearState
    """What attention keeps of them, stacked over the layers."""
    projection: Float[Array, "layers features head_dim"] | None
    """The random features that the keys were mapped to; only for feature_map=favor."""

    @property
    def slots(self) -> int:
        """Keys that a row has room for; none are kept by linear attention."""
        return self.layers.keys.shape[2] if isinstance(self.layers, KeyValues) else 0


def empty_cache(config: RoFormerConfig, batch: int, capacity: int) -> Cache:
    """A cache of no tokens.

    Args:
      config: the model's.
      batch: rows.
      capacity: tokens that a row may reach.
    """
    return Cache(jnp.zeros(batch, jnp.int32), nothing_seen(config, batch, capacity), projections(config, None))


def overflowing(cache: Cache, counts_B: Int[Array, "batch"]) -> Bool[Array, "batch"]:
    """Which rows have, or get with so many new tokens, more than their cache holds."""
    lengths_B = cache.lengths + counts_B
    return lengths_B > cache.slots if isinstance(cache.layers, KeyValues) else jnp.zeros_like(lengths_B, jnp.bool_)
