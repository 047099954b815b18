"""The encoder-decoder of machine translation (Vaswani et al. 2017; paper section 4.1), with RoPE in its self-attention.

Positions enter both self-attentions as the config says. Cross-attention has none: a place in the target has no distance
to one in the source.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from roformer_jax.attention import dot_product_attention, dropout
from roformer_jax.attention.masks import MASK_VALUE
from roformer_jax.errors import InputError
from roformer_jax.models.attention import KeyValues
from roformer_jax.models.cache import Cache, overflowing
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.encoder import (
    Block,
    Embeddings,
    Encoder,
    embedded,
    embedded_after,
    extend_blocks,
    through_blocks,
)
from roformer_jax.models.heads import LanguageModelHead
from roformer_jax.models.layers import gathered_call, linear, norm
from roformer_jax.models.positions import Shared
from roformer_jax.sharding import gathered, laid_out, like
from roformer_jax.typing import Array, Bool, Float, Int, PRNGKeyArray, PyTree

TARGET_TYPE = 1  # the kind of text, among type_vocab_size, that tokens of the target are; those of the source are 0


class Memory(NamedTuple):
    """The source as all cross-attentions read it: made once, however long the target gets."""

    layers: KeyValues
    """Keys, not rotated, and values [N, B, S, H, D]."""
    segment_ids: Int[Array, "batch source_length"]


class CrossAttention(nnx.Module):
    """Softmax attention of the target to the source (eq. 2), neither queries nor keys rotated."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        heads, width, use_bias = (config.num_attention_heads, config.head_size), config.hidden_size, config.use_bias
        self.dropout_rate = config.attention_probs_dropout_prob
        inward, outward = ("embed", "heads", None), ("heads", None, "embed")
        self.query = linear(config, width, heads, axes=inward, use_bias=use_bias, rngs=rngs)
        inward = ("embed", None, "heads", None)
        self.key_value = linear(config, width, (2, *heads), axes=inward, use_bias=use_bias, rngs=rngs)
        self.output = linear(config, heads, width, axis=(-2, -1), axes=outward, use_bias=use_bias, rngs=rngs)

    def keys_and_values(self, source_BSM: Float[Array, "batch source_length width"]) -> KeyValues:
        """Keys and values [B, S, H, D] of the encoded source."""
        both = laid_out(self.key_value(source_BSM), None, None, "heads_of_whole_rows", None)
        return KeyValues(both[:, :, 0], both[:, :, 1])

    def __call__(
        self,
        x_RTM: Float[Array, "rows tokens width"],
        source: KeyValues,
        bias: Float[Array, "batch 1 #queries source_length"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "rows tokens width"]:
        """Mixed values of the source; `key` is for dropout.

        The R target rows are B, or a multiple of it: several continuations of each source, one behind another, that
        read its keys where they lie.
        """
        q_RTHD = laid_out(self.query(x_RTM), None, "heads_of_whole_rows", None)
        rows, batch = len(x_RTM), len(source.keys)
        q_BLHD = q_RTHD if rows == batch else q_RTHD.reshape(batch, -1, *q_RTHD.shape[2:])
        mixed_BLHD = dot_product_attention(
            q_BLHD, source.keys, source.values, bias=bias, dropout_rate=self.dropout_rate, dropout_key=key
        )
        mixed_RTHD = mixed_BLHD if rows == batch else mixed_BLHD.reshape(q_RTHD.shape)
        return self.output(laid_out(mixed_RTHD, "length", "heads", None), out_sharding=like(x_RTM))


class DecoderBlock(Block):
    """A post-norm block of the decoder: self-attention, cross-attention, feed-forward, each added and normed."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        super().__init__(config, causal=True, rngs=rngs)
        self.cross_attention = CrossAttention(config, rngs=rngs)
        self.cross_norm = norm(config, config.hidden_size, rngs=rngs)

    def __call__(
        self,
        x_BTM: Float[Array, "batch tokens width"],
        segment_ids_BT: Int[Array, "batch tokens"],
        shared: Shared,
        projection: Float[Array, "features head_dim"] | None,
        source: KeyValues,
        bias: Float[Array, "batch 1 tokens source_length"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch tokens width"]:
        """The residual stream after the block; `key` is for dropout."""
        keys = (None,) * 5 if key is None else jax.random.split(key, 5)
        mixed_BTM = self.attention(x_BTM, segment_ids_BT, shared, projection, keys[0])
        return self.after_self_attention(x_BTM, mixed_BTM, source, bias, keys[1:])

    def extend(
        self,
        x_RTM: Float[Array, "rows tokens width"],
        is_token_RT: Bool[Array, "rows tokens"],
        shared: Shared,
        projection: Float[Array, "features head_dim"] | None,
        cache: PyTree,
        layer: Int[Array, ""],
        source: KeyValues,
        bias: Float[Array, "batch 1 1 source_length"],
    ) -> tuple[Float[Array, "rows tokens width"], PyTree]:
        """The residual stream of new tokens after the block, number `layer`, and the cache of all with them."""
        mixed_RTM, cache = self.attention.extend(x_RTM, is_token_RT, shared, projection, cache, layer)
        return self.after_self_attention(x_RTM, mixed_RTM, source, bias, (None,) * 4), cache

    def after_self_attention(self, x_BTM: Array, mixed_BTM: Array, source: KeyValues, bias: Array, keys) -> Array:
        """The rest of the block; the four keys are for dropout."""
        rate = self.config.hidden_dropout_prob
        x_BTM = self.attention_norm(x_BTM + dropout(mixed_BTM, rate, keys[0]))
        mixed_BTM = self.cross_attention(x_BTM, source, bias, keys[1])
        x_BTM = self.cross_norm(x_BTM + dropout(mixed_BTM, rate, keys[2]))
        return self.fed(x_BTM, keys[3])


class Decoder(nnx.Module):
    """A scan over stacked decoder blocks; the embeddings are the encoder's."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        if config.position_encoding == "t5":
            raise InputError(
                "model.position_encoding = t5 has one table of distances, which a decoder cannot share with its "
                "encoder: the one looks back only; choose another encoding"
            )
        self.config = config
        make_block = nnx.vmap(lambda rngs: DecoderBlock(config, rngs=rngs), in_axes=0, out_axes=0)
        self.blocks = make_block(rngs.split(config.num_hidden_layers))

    def memory(self, source_BSM: Array, segment_ids_BS: Int[Array, "batch source_length"]) -> Memory:
        """The encoded source, as all blocks read it."""
        graphdef, stacked_params = nnx.split(self.blocks.cross_attention)

        def of_layer(params):
            return nnx.merge(graphdef, gathered(params)).keys_and_values(source_BSM)

        return Memory(jax.lax.map(of_layer, stacked_params), segment_ids_BS)

    def __call__(
        self,
        embeddings: Embeddings,
        ids_BT: Int[Array, "batch tokens"],
        segment_ids_BT: Int[Array, "batch tokens"],
        memory: Memory,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch tokens width"]:
        """Hidden states of packed targets, each of which sees what is before it and the source of its own segment."""
        types_BT = self.token_types(ids_BT)
        x_BTM, shared = embedded(embeddings, ids_BT, segment_ids_BT, types_BT, causal=True, key=key)
        bias = segments_apart(segment_ids_BT, memory.segment_ids)

        def run_block(block, x_BTM, projection, key, source):
            return block(x_BTM, segment_ids_BT, shared, projection, source, bias, key)

        return through_blocks(self.blocks, self.config, run_block, x_BTM, key, memory.layers)

    def extend(
        self,
        embeddings: Embeddings,
        ids_RT: Int[Array, "rows tokens"],
        counts_R: Int[Array, "rows"],
        memory: Memory,
        cache: Cache,
    ) -> tuple[Float[Array, "rows tokens width"], Cache]:
        """Hidden states of new tokens that continue each row of the cache, and the new cache."""
        types_RT = self.token_types(ids_RT)
        x_RTM, is_token_RT, shared = embedded_after(embeddings, ids_RT, types_RT, counts_R, cache)
        bias = segments_apart(jnp.ones_like(memory.segment_ids[:, :1]), memory.segment_ids)

        def run_block(block, x_RTM, projection, layers, layer, source):
            return block.extend(x_RTM, is_token_RT, shared, projection, layers, layer, source, bias)

        x_RTM, layers = extend_blocks(self.blocks, self.config, run_block, x_RTM, cache, memory.layers)
        return x_RTM, cache._replace(lengths=cache.lengths + counts_R, layers=layers)

    def token_types(self, ids: Array) -> Array | None:
        """The kind of text that target tokens are; None where the config does not tell it from the source."""
        return jnp.full_like(ids, TARGET_TYPE) if self.config.type_vocab_size > TARGET_TYPE else None


class RoFormerForTranslation(nnx.Module):
    """Encoder, decoder and language-model head over one vocabulary: a single table of embeddings serves all three."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        self.head = LanguageModelHead(config, rngs=rngs)

    def __call__(
        self,
        source_ids_BS: Int[Array, "batch source_length"],
        source_segment_ids_BS: Int[Array, "batch source_length"],
        ids_BT: Int[Array, "batch tokens"],
        segment_ids_BT: Int[Array, "batch tokens"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch tokens vocab"]:
        """Float32 logits of the next target token at every place.

        Args:
          source_ids_BS: token ids of packed sources.
          source_segment_ids_BS: which pair of the row a token belongs to, from 1; 0 is padding.
          ids_BT: token ids of their targets, each after its start token.
          segment_ids_BT: as for the source; a target reads the source of the same number.
          key: dropout key; None evaluates without dropout.
        """
        encoder_key, decoder_key = (None, None) if key is None else jax.random.split(key)
        memory = self.read(source_ids_BS, source_segment_ids_BS, key=encoder_key)
        return self.logits(self.decoder(self.encoder.embeddings, ids_BT, segment_ids_BT, memory, decoder_key))

    def read(
        self,
        source_ids_BS: Int[Array, "batch source_length"],
        source_segment_ids_BS: Int[Array, "batch source_length"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Memory:
        """The encoded source; arguments as the whole model's."""
        return self.decoder.memory(self.encoder(source_ids_BS, source_segment_ids_BS, key=key), source_segment_ids_BS)

    def extend(
        self, ids_RT: Int[Array, "rows tokens"], counts_R: Int[Array, "rows"], memory: Memory, cache: Cache
    ) -> tuple[Float[Array, "rows tokens vocab"], Cache]:
        """Float32 logits after every new token, and the cache with them; see `build_translator`."""
        x_RTM, extended = self.decoder.extend(self.encoder.embeddings, ids_RT, counts_R, memory, cache)
        full_R = overflowing(cache, counts_R)
        return jnp.where(full_R[:, None, None], jnp.nan, self.logits(x_RTM)), extended

    def logits(self, x_BTM: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens vocab"]:
        """What the head makes of hidden states."""
        x_BTM = laid_out(x_BTM, "predictions", None)
        return gathered_call(self.head, x_BTM, gathered(self.encoder.embeddings.token.embedding[...]))


def segments_apart(
    segment_ids_BT: Int[Array, "batch tokens"], source_segment_ids_BS: Int[Array, "batch source_length"]
) -> Float[Array, "batch 1 tokens source_length"]:
    """What hides from a target token all of the source but its own segment: 0 there, else a logit of no probability."""
    same_BTS = segment_ids_BT[:, :, None] == source_segment_ids_BS[:, None, :]
    return jnp.where(same_BTS, jnp.float32(0), jnp.float32(MASK_VALUE))[:, None]
