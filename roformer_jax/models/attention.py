"""Self-attention of a block: over the rows of a batch, and over a cache that grows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from roformer_jax.attention import (
    LinearState,
    dot_product_attention,
    favor_projection,
    linear_attention,
    linear_attention_step,
)
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.layers import linear
from roformer_jax.models.positions import Shared, encoding_of
from roformer_jax.rope import rotate, rotate_qk
from roformer_jax.sharding import laid_out, like
from roformer_jax.typing import Array, Bool, Float, Int, PRNGKeyArray

EVALUATION_PROJECTION = 0  # seed of the random features without a dropout key: the same in every evaluation


class KeyValues(NamedTuple):
    """Rotated keys and the values of all layers [N, B, S, H, D], in the compute dtype."""

    keys: Array
    values: Array


class SelfAttention(nnx.Module):
    """The linear maps that every attention has."""

    def __init__(self, config: RoFormerConfig, *, causal: bool, rngs: nnx.Rngs):
        heads = (config.num_attention_heads, config.head_size)
        self.config, self.causal = config, causal
        inward, outward = ("embed", None, "heads", None), ("heads", None, "embed")
        width, use_bias = config.hidden_size, config.use_bias
        self.query_key_value = linear(config, width, (3, *heads), axes=inward, use_bias=use_bias, rngs=rngs)
        self.output = linear(config, heads, width, axis=(-2, -1), axes=outward, use_bias=use_bias, rngs=rngs)

    def heads(self, x_BLM: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values [B, L, H, D] of whole rows."""
        qkv = laid_out(self.query_key_value(x_BLM), None, None, "heads_of_whole_rows", None)
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]

    def joined(self, mixed_BLHD: Array, x_BLM: Array) -> Array:
        """What the heads found, as the residual stream takes it."""
        return self.output(laid_out(mixed_BLHD, "length", "heads", None), out_sharding=like(x_BLM))


class SoftmaxAttention(SelfAttention):
    """Softmax attention whose queries and keys are rotated (eq. 14-16), or whose logits are biased.

    Values are rotated too only where the config says so, for checkpoints that were trained in that way.
    """

    def __init__(self, config: RoFormerConfig, *, causal: bool, rngs: nnx.Rngs):
        super().__init__(config, causal=causal, rngs=rngs)
        self.relative = encoding_of(config).of_layer(config, rngs=rngs)

    def __call__(
        self,
        x_BLM: Float[Array, "batch length width"],
        segment_ids_BL: Int[Array, "batch length"],
        shared: Shared,
        projection: None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch length width"]:
        """Mixed values of each token's segment."""
        q_BLHD, k_BLHD, v_BLHD = self.rotated_heads(x_BLM, shared)
        mixed_BLHD = dot_product_attention(
            q_BLHD, k_BLHD, v_BLHD, segment_ids=segment_ids_BL, causal=self.causal,
            dropout_rate=self.config.attention_probs_dropout_prob, dropout_key=key,
            **self.relative_terms(q_BLHD, shared, x_BLM.shape[1]),
        )  # fmt: skip
        return self.joined(mixed_BLHD, x_BLM)

    def extend(
        self,
        x_BTM: Float[Array, "batch tokens width"],
        is_token_BT: Bool[Array, "batch tokens"],
        shared: Shared,
        projection: None,
        cache: KeyValues,
        layer: Int[Array, ""],
    ) -> tuple[Float[Array, "batch tokens width"], KeyValues]:
        """Mixed values of new tokens that also see those of the cache's layer, and the cache with the new ones."""
        q_BTHD, k_BTHD, v_BTHD = self.rotated_heads(x_BTM, shared)
        positions_BT = shared.query_positions
        capacity = cache.keys.shape[2]
        slots_BT = jnp.where(is_token_BT, positions_BT, capacity)
        cache = KeyValues(written(cache.keys, k_BTHD, layer, slots_BT), written(cache.values, v_BTHD, layer, slots_BT))
        mixed_BTHD = dot_product_attention(
            q_BTHD, cache.keys[layer], cache.values[layer], causal=True, query_positions=positions_BT,
            **self.relative_terms(q_BTHD, shared, capacity),
        )  # fmt: skip
        return self.output(mixed_BTHD), cache

    def rotated_heads(self, x_BLM: Array, shared: Shared) -> tuple[Array, Array, Array]:
        """Queries and keys rotated, and values [B, L, H, D]."""
        q_BLHD, k_BLHD, v_BLHD = self.heads(x_BLM)
        if shared.rotation is not None:
            q_BLHD, k_BLHD = rotate_qk(q_BLHD, k_BLHD, shared.rotation, layout="interleaved")
            if self.config.rotary_value:
                v_BLHD = rotate(v_BLHD, shared.rotation, layout="interleaved")
        return q_BLHD, k_BLHD, v_BLHD

    def relative_terms(self, q_BLHD: Array, shared: Shared, key_length: int) -> dict[str, Array | None]:
        """What relative positions add to logits and values."""
        if self.relative is None:
            return {"bias": shared.bias}
        return self.relative.attention_terms(q_BLHD, shared.query_positions, key_length)


class LinearAttention(SelfAttention):
    """Linear attention (eq. 18-19), whose features, or queries and keys, are rotated."""

    def __call__(
        self,
        x_BLM: Float[Array, "batch length width"],
        segment_ids_BL: Int[Array, "batch length"],
        shared: Shared,
        projection: Float[Array, "features head_dim"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch length width"]:
        """Mixed values of each token's segment; nothing is dropped from them."""
        mixed_BLHD = linear_attention(
            *self.heads(x_BLM), shared.rotation, segment_ids=segment_ids_BL, causal=self.causal,
            **self.weights(projection),
        )  # fmt: skip
        return self.joined(mixed_BLHD, x_BLM)

    def extend(
        self,
        x_BTM: Float[Array, "batch tokens width"],
        is_token_BT: Bool[Array, "batch tokens"],
        shared: Shared,
        projection: Float[Array, "features head_dim"] | None,
        cache: LinearState,
        layer: Int[Array, ""],
    ) -> tuple[Float[Array, "batch tokens width"], LinearState]:
        """Mixed values of new tokens that also see those of the state, and the state with the new ones."""
        before = jax.tree.map(lambda states: states[layer], cache)
        mixed_BTHD, after = linear_attention_step(
            *self.heads(x_BTM), shared.rotation, before, valid=is_token_BT, **self.weights(projection)
        )
        return self.output(mixed_BTHD), jax.tree.map(lambda states, new: states.at[layer].set(new), cache, after)

    def weights(self, projection: Array | None) -> dict[str, Any]:
        """How queries and keys make a weight."""
        return {
            "layout": "interleaved",
            "feature_map": self.config.feature_map,
            "projection": projection,
            "rotate": self.config.linear_rotation,
        }


def self_attention(config: RoFormerConfig, *, causal: bool, rngs: nnx.Rngs) -> SelfAttention:
    """The attention that the config names."""
    kind = LinearAttention if config.attention == "linear" else SoftmaxAttention
    return kind(config, causal=causal, rngs=rngs)


def projections(config: RoFormerConfig, key: PRNGKeyArray | None) -> Float[Array, "layers features head_dim"] | None:
    """The random directions of FAVOR+ for every layer, if the config asks for them; without a key always the same."""
    if (config.attention, config.feature_map) != ("linear", "favor"):
        return None
    key = jax.random.key(EVALUATION_PROJECTION) if key is None else key
    keys = jax.random.split(key, config.num_hidden_layers)
    return jax.vmap(lambda key: favor_projection(key, config.head_size, config.num_features))(keys)


def nothing_seen(config: RoFormerConfig, batch: int, capacity: int) -> KeyValues | LinearState:
    """What the attention of all layers remembers before the first token."""
    N, H, D = config.num_hidden_layers, config.num_attention_heads, config.head_size
    if config.attention == "linear":
        lowest = jnp.full((N, batch, H), jnp.finfo(jnp.float32).min)  # no scale is below that of no keys
        return LinearState(jnp.zeros((N, batch, H, config.num_features, D + 1)), lowest)
    keys, values = (jnp.zeros((N, batch, capacity, H, D), config.dtype) for _ in range(2))
    return KeyValues(keys, values)


def written(
    cache_NBSHD: Float[Array, "layers batch capacity heads head_dim"],
    new_BTHD: Float[Array, "batch tokens heads head_dim"],
    layer: Int[Array, ""],
    slots_BT: Int[Array, "batch tokens"],
) -> Float[Array, "layers batch capacity heads head_dim"]:
    """The cache with each row's new tokens in its own slots of a layer; what has a slot outside is left out."""
    rows_B1 = jnp.arange(slots_BT.shape[0])[:, None]
    return cache_NBSHD.at[layer, rows_B1, slots_BT].set(new_BTHD, mode="drop")
