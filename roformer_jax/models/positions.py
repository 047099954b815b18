"""Position encodings: what is added to the embeddings, what all layers share, and what each layer owns."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from roformer_jax.attention.biases import T5_BUCKETS, alibi_bias, shaw_logits, t5_buckets
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.layers import lookup, table
from roformer_jax.rope import Rotation, frequencies, rotation, scale_linear, scale_ntk, scale_yarn, yarn_gain
from roformer_jax.typing import Array, Float, Int


class Shared(NamedTuple):
    """What positions give to the attention of all layers, made once per call."""

    rotation: Rotation | None
    """Turns queries and keys."""
    bias: Float[Array, "#batch heads length key_length"] | None
    """Is added to the logits."""
    query_positions: Int[Array, "#batch length"]
    """Where each query stands among the keys, whose positions are 0, .., S - 1."""


class ShawVectors(nnx.Module):
    """The a^K and a^V of one layer for the distances -k, .., k, shared by its heads (arXiv 1803.02155)."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        distances = 2 * config.relative_distance + 1
        self.keys = table(config, distances, config.head_size, rngs=rngs)
        self.values = table(config, distances, config.head_size, rngs=rngs)

    def attention_terms(
        self,
        q_BLHD: Float[Array, "batch length heads head_dim"],
        query_positions: Int[Array, "#batch length"],
        keys: int,
    ) -> dict[str, Array]:
        """The arguments of `dot_product_attention` for queries at these positions among so many keys."""
        keys_RD, values_RD = (part.embedding[...].astype(q_BLHD.dtype) for part in (self.keys, self.values))
        return {"bias": shaw_logits(q_BLHD, keys_RD, query_positions, keys), "relative_values": values_RD}


class Encoding(nnx.Module):
    """No positions at all, and the interface of those encodings that give some: each overrides what it does."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.config = config

    @staticmethod
    def of_layer(config: RoFormerConfig, *, rngs: nnx.Rngs) -> ShawVectors | None:
        """What each layer owns."""

    def added(self, positions_BL: Int[Array, "batch length"]) -> Float[Array, "batch length width"] | None:
        """What is added to the input embeddings of tokens at these positions of their documents."""

    def rotation(self, positions_BL: Int[Array, "batch length"]) -> Rotation | None:
        """What turns queries and keys at these positions of their documents."""

    def bias(
        self,
        query_positions: Int[Array, "#batch length"],
        key_positions: Int[Array, "#batch key_length"],
        *,
        causal: bool,
    ) -> Float[Array, "#batch heads length key_length"] | None:
        """What is added to the logits; only differences of the positions count."""

    def shared(
        self, positions_BL: Int[Array, "batch length"], query_positions: Int[Array, "#batch length"], key_length: int,
        *, causal: bool,
    ) -> Shared:  # fmt: skip
        """All that the layers share.

        Args:
          positions_BL: positions of the queries, and of their keys, in their documents.
          query_positions: positions of the queries among the keys.
          key_length: keys of a row.
          causal: whether queries see earlier keys only.
        """
        key_positions = jnp.arange(key_length, dtype=jnp.int32)[None]
        bias = self.bias(query_positions, key_positions, causal=causal)
        return Shared(self.rotation(positions_BL), bias, query_positions)


class Rope(Encoding):
    """Queries and keys are rotated (eq. 14-16), at frequencies scaled for longer texts if the config says so."""

    def rotation(self, positions_BL: Int[Array, "batch length"]) -> Rotation:
        """The table of cos and sin."""
        config, gain = self.config, 1.0
        freqs = frequencies(config.rotary_dim, config.rope_theta)
        match config.rope_scaling:
            case "linear":
                freqs = scale_linear(freqs, config.rope_scaling_factor)
            case "ntk":
                freqs = scale_ntk(freqs, config.rope_scaling_factor)
            case "yarn":
                freqs = scale_yarn(freqs, config.rope_scaling_factor, original_length=config.rope_original_length)
                gain = float(yarn_gain(config.rope_scaling_factor))
        return rotation(positions_BL, freqs, gain=gain)


class Learned(Encoding):
    """A learned vector of each position is added to the token embedding (BERT)."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.embedding = table(config, config.max_position_embeddings, config.embedding_width, rngs=rngs).embedding

    def added(self, positions_BL: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """Rows of the table; NaN beyond it."""
        return lookup(self.embedding[...], positions_BL).astype(self.config.dtype)


class Sinusoidal(Encoding):
    """Sines and cosines of the position are added to the token embedding (eq. 4)."""

    def added(self, positions_BL: Int[Array, "batch length"]) -> Float[Array, "batch length width"]:
        """p[2t] = sin(position / 10000^(2t/width)), p[2t + 1] = cos of the same angle."""
        width = self.config.embedding_width
        phases = rotation(positions_BL, frequencies(width))
        pairs = jnp.stack([phases.sin, phases.cos], axis=-1)
        return pairs.reshape(*positions_BL.shape, width).astype(self.config.dtype)


class Alibi(Encoding):
    """Logits fall with the distance, at a fixed slope per head (arXiv 2108.12409)."""

    def bias(
        self,
        query_positions: Int[Array, "#batch length"],
        key_positions: Int[Array, "#batch key_length"],
        *,
        causal: bool,
    ) -> Float[Array, "#batch heads length key_length"]:
        """-slope |m - n|, the same with and without a causal mask."""
        return alibi_bias(query_positions, key_positions, self.config.num_attention_heads)


class T5(Encoding):
    """A learned number per head and bucket of distances, shared by all layers, is added to the logits (eq. 9)."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.embedding = table(config, T5_BUCKETS, config.num_attention_heads, rngs=rngs).embedding

    def bias(
        self,
        query_positions: Int[Array, "#batch length"],
        key_positions: Int[Array, "#batch key_length"],
        *,
        causal: bool,
    ) -> Float[Array, "#batch heads length key_length"]:
        """The table's numbers, in float32; logits are scaled by 1 / sqrt(D) as in every other model here."""
        buckets_BLS = t5_buckets(query_positions, key_positions, causal=causal)
        return jnp.moveaxis(lookup(self.embedding[...], buckets_BLS), -1, 1)


class Shaw(Encoding):
    """Each layer has learned vectors for clipped distances, added to its keys and values (eq. 5)."""

    @staticmethod
    def of_layer(config: RoFormerConfig, *, rngs: nnx.Rngs) -> ShawVectors:
        """The vectors."""
        return ShawVectors(config, rngs=rngs)


def encoding_of(config: RoFormerConfig) -> type[Encoding]:
    """The encoding that the config names."""
    encodings = {
        "rope": Rope,
        "learned": Learned,
        "sinusoidal": Sinusoidal,
        "alibi": Alibi,
        "t5": T5,
        "shaw": Shaw,
        "none": Encoding,
    }
    return encodings[config.position_encoding]
