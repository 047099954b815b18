"""The encoder with its heads: masked and causal language modelling, classification or regression, single tokens."""

import jax
import jax.numpy as jnp
from flax import nnx

from roformer_jax.attention import dropout
from roformer_jax.errors import InputError
from roformer_jax.models.cache import Cache, overflowing
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.encoder import Encoder
from roformer_jax.models.layers import activated, gathered_call, linear, norm, table
from roformer_jax.models.products import product
from roformer_jax.sharding import gathered, laid_out
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray


def take_tokens(
    x_BLM: Float[Array, "batch length width"], at_BP: Int[Array, "batch positions"]
) -> Float[Array, "batch positions width"]:
    """The vectors at the given positions of each row; `x_BLM` is whole along the row."""
    return jnp.take_along_axis(x_BLM, at_BP[:, :, None], axis=1)


def mean_tokens(
    x_BLM: Float[Array, "batch length width"], segment_ids_BL: Int[Array, "batch length"], examples: int
) -> Float[Array, "batch examples width"]:
    """The mean vector of each segment 1, ..., `examples` of a row, summed in float32; zeros for an empty one."""
    numbers_E = jnp.arange(1, examples + 1, dtype=segment_ids_BL.dtype)
    inside_BEL = (segment_ids_BL[:, None, :] == numbers_E[None, :, None]).astype(x_BLM.dtype)
    sum_BEM = jnp.einsum("bel,blm->bem", inside_BEL, x_BLM, preferred_element_type=jnp.float32)
    count_BE = jnp.sum(inside_BEL, axis=-1, dtype=jnp.float32)
    return (sum_BEM / jnp.maximum(count_BE, 1.0)[:, :, None]).astype(x_BLM.dtype)


class LanguageModelHead(nnx.Module):
    """Dense, activation, LayerNorm, then the transposed token embedding and a bias (BERT; the RoFormer-GPT too).

    The transposed table is the head's own where the config does not tie them. RoFormerV2 has nothing but the table.
    """

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        if config.norm_type == "rms_norm" and config.embedding_width != config.hidden_size:
            raise InputError(
                f"model.norm_type = rms_norm: RoFormerV2's language-model head has no map from model.hidden_size = "
                f"{config.hidden_size} back to model.embedding_size = {config.embedding_width}; make them equal"
            )
        self.config = config
        if not config.tie_word_embeddings:
            self.decoder = table(config, config.vocab_size, config.embedding_width, rngs=rngs)
        if config.norm_type == "layer_norm":
            width = config.embedding_width
            self.dense = linear(config, config.hidden_size, width, axes=("embed", None), rngs=rngs)
            self.norm = norm(config, width, rngs=rngs)
            self.bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))

    def __call__(
        self, x_BPM: Float[Array, "batch positions width"], table_VE: Float[Array, "vocab embedding_width"]
    ) -> Float[Array, "batch positions vocab"]:
        """Float32 logits; `table_VE` is the token embedding."""
        if not self.config.tie_word_embeddings:
            table_VE = self.decoder.embedding[...]
        if self.config.norm_type == "rms_norm":
            return self._products(x_BPM, table_VE)
        x_BPE = self.norm(activated(self.config, self.dense(x_BPM)))
        return self._products(x_BPE, table_VE) + self.bias[...][None, None, :]

    @staticmethod
    def _products(x_BPE: Array, table_VE: Array) -> Array:
        return product(x_BPE, table_VE.astype(x_BPE.dtype).T, 1, jnp.float32)


class RoFormerForMaskedLM(nnx.Module):
    """Encoder and masked-LM head; the head runs at the masked positions only."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs=rngs)
        self.head = LanguageModelHead(config, rngs=rngs)

    def __call__(
        self,
        ids_BL: Int[Array, "batch length"],
        segment_ids_BL: Int[Array, "batch length"],
        masked_positions_BP: Int[Array, "batch positions"],
        token_type_ids_BL: Int[Array, "batch length"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch positions vocab"]:
        """Float32 logits over the vocabulary at the masked positions of each row; other arguments as `Encoder`."""
        x_BLM = self.encoder(ids_BL, segment_ids_BL, token_type_ids_BL, key=key)
        table_VM = gathered(self.encoder.embeddings.token.embedding[...])
        x_BPM = take_tokens(laid_out(x_BLM, None, None), masked_positions_BP)
        return gathered_call(self.head, laid_out(x_BPM, "predictions", None), table_VM)


class RoFormerForCausalLM(nnx.Module):
    """Causal encoder and language-model head: the RoFormer-GPT, the next token from those before it."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config, causal=True, rngs=rngs)
        self.head = LanguageModelHead(config, rngs=rngs)

    def __call__(
        self,
        ids_BL: Int[Array, "batch length"],
        segment_ids_BL: Int[Array, "batch length"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch length vocab"]:
        """Float32 logits of the next token at every position; arguments as `Encoder`."""
        return self.logits(self.encoder(ids_BL, segment_ids_BL, key=key))

    def extend(
        self, ids_BT: Int[Array, "batch tokens"], counts_B: Int[Array, "batch"], cache: Cache
    ) -> tuple[Float[Array, "batch tokens vocab"], Cache]:
        """Float32 logits after every new token, and the cache with them; see `build_decoder`."""
        x_BTM, extended = self.encoder.extend(ids_BT, counts_B, cache)
        full_B = overflowing(cache, counts_B)
        return jnp.where(full_B[:, None, None], jnp.nan, self.logits(x_BTM)), extended

    def logits(self, x_BLM: Float[Array, "batch length width"]) -> Float[Array, "batch length vocab"]:
        """What the head makes of hidden states."""
        x_BLM = laid_out(x_BLM, "predictions", None)
        return gathered_call(self.head, x_BLM, gathered(self.encoder.embeddings.token.embedding[...]))


class ClassificationHead(nnx.Module):
    """Dropout, dense, activation, dropout, output: Hugging Face's RoFormer head (no pooler)."""

    def __init__(self, config: RoFormerConfig, num_outputs: int, *, rngs: nnx.Rngs):
        self.config = config
        self.dense = linear(config, config.hidden_size, config.hidden_size, axes=("embed", None), rngs=rngs)
        self.output = linear(config, config.hidden_size, num_outputs, axes=("embed", None), rngs=rngs)

    def __call__(
        self, x_BEM: Float[Array, "batch examples width"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch examples outputs"]:
        """Float32 outputs from the pooled vectors; `key` is for dropout."""
        keys = (None, None) if key is None else jax.random.split(key)
        rate = self.config.hidden_dropout_prob
        x_BEM = activated(self.config, self.dense(dropout(x_BEM, rate, keys[0])))
        return self.output(dropout(x_BEM, rate, keys[1])).astype(jnp.float32)


class RoFormerForClassification(nnx.Module):
    """Encoder and a head that reads one pooled vector per example of a row; one output is a regression."""

    def __init__(self, config: RoFormerConfig, num_outputs: int, *, rngs: nnx.Rngs):
        self.pooling = config.classifier_pooling
        self.encoder = Encoder(config, rngs=rngs)
        self.head = ClassificationHead(config, num_outputs, rngs=rngs)

    def __call__(
        self,
        ids_BL: Int[Array, "batch length"],
        segment_ids_BL: Int[Array, "batch length"],
        starts_BE: Int[Array, "batch examples"],
        token_type_ids_BL: Int[Array, "batch length"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch examples outputs"]:
        """Float32 outputs (class logits, or one score) per example; `starts_BE` holds each example's [CLS] position."""
        encoder_key, head_key = (None, None) if key is None else jax.random.split(key)
        x_BLM = laid_out(self.encoder(ids_BL, segment_ids_BL, token_type_ids_BL, key=encoder_key), None, None)
        if self.pooling == "mean":
            pooled_BEM = mean_tokens(x_BLM, segment_ids_BL, starts_BE.shape[1])
        else:
            pooled_BEM = take_tokens(x_BLM, starts_BE)
        return gathered_call(self.head, pooled_BEM, head_key)


class RoFormerForTokens(nnx.Module):
    """Encoder, dropout and a linear map at given positions: the heads that read single tokens.

    Hugging Face's token classification reads every token, question answering too (two outputs: start and end), and
    multiple choice the last token of each choice (one output, compared between the choices).
    """

    def __init__(self, config: RoFormerConfig, num_outputs: int, *, rngs: nnx.Rngs):
        self.dropout_rate = config.hidden_dropout_prob
        self.encoder = Encoder(config, rngs=rngs)
        self.head = linear(config, config.hidden_size, num_outputs, axes=("embed", None), rngs=rngs)

    def __call__(
        self,
        ids_BL: Int[Array, "batch length"],
        segment_ids_BL: Int[Array, "batch length"],
        positions_BP: Int[Array, "batch positions"],
        token_type_ids_BL: Int[Array, "batch length"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch positions outputs"]:
        """Float32 outputs at the given positions of each row; other arguments as `Encoder`."""
        encoder_key, head_key = (None, None) if key is None else jax.random.split(key)
        x_BLM = laid_out(self.encoder(ids_BL, segment_ids_BL, token_type_ids_BL, key=encoder_key), None, None)
        x_BPM = dropout(take_tokens(x_BLM, positions_BP), self.dropout_rate, head_key)
        return gathered_call(self.head, x_BPM).astype(jnp.float32)
