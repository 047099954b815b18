"""The RoFormer encoder: embeddings, then a scan over stacked post-norm blocks; with a causal mask, the RoFormer-GPT."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from roformer_jax.attention import ATTENTION_OUTPUT, dropout
from roformer_jax.models.attention import projections, self_attention
from roformer_jax.models.cache import Cache
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.layers import activated, gathered_call, linear, lookup, norm, table
from roformer_jax.models.positions import Shared, encoding_of
from roformer_jax.rope import decode_positions, packed_positions
from roformer_jax.sharding import gathered, laid_out, like
from roformer_jax.typing import Array, Bool, Float, Int, PRNGKeyArray, PyTree

PROJECTION_STREAM = 2  # what the dropout key is folded with for random features; 0 and 1 are those of its split


class Embeddings(nnx.Module):
    """Token (+ segment) (+ absolute position) embeddings, norm, dropout, and a map to the model's width if need be."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.dropout_rate = config.hidden_dropout_prob
        width = config.embedding_width
        self.token = table(config, config.vocab_size, width, rngs=rngs)
        types = config.type_vocab_size
        self.token_type = table(config, types, width, rngs=rngs) if types else None
        self.position = encoding_of(config)(config, rngs=rngs)
        self.norm = norm(config, width, rngs=rngs)
        wider = width != config.hidden_size
        self.project = linear(config, width, config.hidden_size, axes=(None, "embed"), rngs=rngs) if wider else None

    def __call__(
        self,
        ids_BL: Int[Array, "batch length"],
        token_type_ids_BL: Int[Array, "batch length"] | None,
        positions_BL: Int[Array, "batch length"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch length width"]:
        """What enters the first block; `key` is for dropout."""
        ids_BL, positions_BL = laid_out(ids_BL, "length"), laid_out(positions_BL, "length")
        x_BLM = lookup(self.token.embedding[...], ids_BL).astype(self.token.dtype)
        if self.token_type is not None:
            token_type_ids_BL = jnp.zeros_like(ids_BL) if token_type_ids_BL is None else token_type_ids_BL
            token_type_ids_BL = laid_out(token_type_ids_BL, "length")
            x_BLM += lookup(self.token_type.embedding[...], token_type_ids_BL).astype(x_BLM.dtype)
        added_BLM = self.position.added(positions_BL)
        if added_BLM is not None:
            x_BLM += added_BLM
        x_BLM = dropout(gathered_call(self.norm, x_BLM), self.dropout_rate, key)
        return x_BLM if self.project is None else gathered_call(self.project, x_BLM)


class Block(nnx.Module):
    """A post-norm transformer block: attention, add, norm, feed-forward, add, norm."""

    def __init__(self, config: RoFormerConfig, *, causal: bool, rngs: nnx.Rngs):
        self.config = config
        width, inner, use_bias = config.hidden_size, config.intermediate_size, config.use_bias
        self.attention = self_attention(config, causal=causal, rngs=rngs)
        self.attention_norm = norm(config, width, rngs=rngs)
        self.up = linear(config, width, inner, axes=("embed", "mlp"), use_bias=use_bias, rngs=rngs)
        self.down = linear(config, inner, width, axes=("mlp", "embed"), use_bias=use_bias, rngs=rngs)
        self.output_norm = norm(config, width, rngs=rngs)

    def __call__(
        self,
        x_BLM: Float[Array, "batch length width"],
        segment_ids_BL: Int[Array, "batch length"],
        shared: Shared,
        projection: Float[Array, "features head_dim"] | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch length width"]:
        """The residual stream after the block; `key` is for dropout."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        mixed_BLM = self.attention(x_BLM, segment_ids_BL, shared, projection, keys[0])
        return self.after_attention(x_BLM, mixed_BLM, keys[1], keys[2])

    def extend(
        self,
        x_BTM: Float[Array, "batch tokens width"],
        is_token_BT: Bool[Array, "batch tokens"],
        shared: Shared,
        projection: Float[Array, "features head_dim"] | None,
        cache: PyTree,
        layer: Int[Array, ""],
    ) -> tuple[Float[Array, "batch tokens width"], PyTree]:
        """The residual stream of new tokens after the block, number `layer`, and the cache of all with them."""
        mixed_BTM, cache = self.attention.extend(x_BTM, is_token_BT, shared, projection, cache, layer)
        return self.after_attention(x_BTM, mixed_BTM, None, None), cache

    def after_attention(
        self, x_BLM: Array, mixed_BLM: Array, mixed_key: PRNGKeyArray | None, fed_key: PRNGKeyArray | None
    ) -> Array:
        """The rest of the block; the keys are for dropout."""
        mixed_BLM = dropout(mixed_BLM, self.config.hidden_dropout_prob, mixed_key)
        return self.fed(self.attention_norm(x_BLM + mixed_BLM), fed_key)

    def fed(self, x_BLM: Array, key: PRNGKeyArray | None) -> Array:
        """The feed-forward layer, added and normed; the key is for dropout."""
        fed_BLM = self.down(activated(self.config, self.up(x_BLM)), out_sharding=like(x_BLM))
        return self.output_norm(x_BLM + dropout(fed_BLM, self.config.hidden_dropout_prob, key))


class Encoder(nnx.Module):
    """Contextual vectors of packed rows: attention stays inside a segment, and positions restart with each.

    Causal, a token sees only those before it.
    """

    def __init__(self, config: RoFormerConfig, *, causal: bool = False, rngs: nnx.Rngs):
        self.config, self.causal = config, causal
        self.embeddings = Embeddings(config, rngs=rngs)
        make_block = nnx.vmap(lambda rngs: Block(config, causal=causal, rngs=rngs), in_axes=0, out_axes=0)
        self.blocks = make_block(rngs.split(config.num_hidden_layers))

    def __call__(
        self,
        ids_BL: Int[Array, "batch length"],
        segment_ids_BL: Int[Array, "batch length"],
        token_type_ids_BL: Int[Array, "batch length"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch length width"]:
        """Encode rows of tokens.

        Args:
          ids_BL: token ids in [0, vocab_size).
          segment_ids_BL: which document of the row a token belongs to, from 1; 0 is padding.
          token_type_ids_BL: which text of a pair, in [0, type_vocab_size); all 0 when None, and not read where the
            config has no types.
          key: dropout key; None evaluates without dropout.

        Returns:
          Hidden states in the compute dtype; those of padding carry no meaning.
        """
        x_BLM, shared = embedded(
            self.embeddings, ids_BL, segment_ids_BL, token_type_ids_BL, causal=self.causal, key=key
        )

        def run_block(block, x_BLM, projection, key):
            return block(x_BLM, segment_ids_BL, shared, projection, key)

        return through_blocks(self.blocks, self.config, run_block, x_BLM, key)

    def extend(
        self, ids_BT: Int[Array, "batch tokens"], counts_B: Int[Array, "batch"], cache: Cache
    ) -> tuple[Float[Array, "batch tokens width"], Cache]:
        """Hidden states of new tokens that continue each row of the cache (a causal encoder's only), and the new cache.

        Args:
          ids_BT: token ids; what follows the first `counts_B` of a row is padding.
          counts_B: new tokens of each row.
          cache: the tokens before.
        """
        x_BTM, is_token_BT, shared = embedded_after(self.embeddings, ids_BT, None, counts_B, cache)

        def run_block(block, x_BTM, projection, layers, layer):
            return block.extend(x_BTM, is_token_BT, shared, projection, layers, layer)

        x_BTM, layers = extend_blocks(self.blocks, self.config, run_block, x_BTM, cache)
        return x_BTM, cache._replace(lengths=cache.lengths + counts_B, layers=layers)


def embedded(
    embeddings: Embeddings, ids_BL: Array, segment_ids_BL: Array, token_type_ids_BL: Array | None, *, causal: bool,
    key: PRNGKeyArray | None,
) -> tuple[Array, Shared]:  # fmt: skip
    """What enters the first block of packed rows, and what all blocks share; arguments as `Encoder`."""
    length = ids_BL.shape[1]
    embeddings.position.config.check_length(length)
    positions_BL = packed_positions(segment_ids_BL)
    embedding_key = None if key is None else jax.random.split(key)[0]
    x_BLM = embeddings(ids_BL, token_type_ids_BL, positions_BL, embedding_key)
    # Made once here, so that every block and head shares it. Distances in a document are those in its row.
    index_1L = jnp.arange(length, dtype=jnp.int32)[None]
    return x_BLM, embeddings.position.shared(positions_BL, index_1L, length, causal=causal)


def through_blocks(
    blocks: Block, config: RoFormerConfig, run_block: Callable[..., Array], x_BLM: Array, key: PRNGKeyArray | None,
    *of_layers: PyTree,
) -> Array:  # fmt: skip
    """The residual stream after a scan over stacked blocks.

    Args:
      blocks: their parameters have an axis of layers in front.
      config: the model's.
      run_block: `run_block(block, x_BLM, projection, key, *of_layer) -> x_BLM`.
      x_BLM: what enters the first.
      key: dropout key of the model, as `embedded` takes it; None evaluates without dropout.
      *of_layers: arrays with an axis of layers in front, of which `run_block` gets its own.
    """
    block_key = None if key is None else jax.random.split(key)[1]
    projection_key = None if key is None else jax.random.fold_in(key, PROJECTION_STREAM)
    graphdef, stacked_params = nnx.split(blocks)

    def step(x_BLM, inputs):
        params, projection, key, *of_layer = inputs
        return run_block(nnx.merge(graphdef, gathered(params)), x_BLM, projection, key, *of_layer), None

    keys = None if block_key is None else jax.random.split(block_key, config.num_hidden_layers)
    layers = stacked_params, projections(config, projection_key), keys, *of_layers
    x_BLM, _ = jax.lax.scan(rematerialised(step, config.remat), x_BLM, layers, unroll=config.unroll)
    return x_BLM


def embedded_after(
    embeddings: Embeddings, ids_BT: Array, token_type_ids_BT: Array | None, counts_B: Array, cache: Cache
) -> tuple[Array, Array, Shared]:
    """What enters the first block of new tokens, which of them are no padding, and what all blocks share.

    Arguments as `Encoder.extend`.
    """
    positions_BT = decode_positions(cache.lengths, ids_BT.shape[1])
    is_token_BT = positions_BT < (cache.lengths + counts_B)[:, None]
    positions_BT = jnp.where(is_token_BT, positions_BT, 0)  # padding is no reason to look beyond a table
    x_BTM = embeddings(ids_BT, token_type_ids_BT, positions_BT, None)
    return x_BTM, is_token_BT, embeddings.position.shared(positions_BT, positions_BT, cache.slots, causal=True)


def extend_blocks(
    blocks: Block, config: RoFormerConfig, run_block: Callable[..., tuple[Array, PyTree]], x_BTM: Array, cache: Cache,
    *of_layers: PyTree,
) -> tuple[Array, PyTree]:  # fmt: skip
    """New tokens' residual stream after all blocks, and the layers of the cache with them.

    Args:
      blocks: as `through_blocks`.
      config: the model's.
      run_block: `run_block(block, x_BTM, projection, layers, layer, *of_layer) -> (x_BTM, layers)`.
      x_BTM: what enters the first.
      cache: the tokens before.
      *of_layers: as `through_blocks`.
    """
    graphdef, stacked_params = nnx.split(blocks)

    def step(carry, inputs):
        layer, params, projection, *of_layer = inputs
        x_BTM, layers = carry
        return run_block(nnx.merge(graphdef, gathered(params)), x_BTM, projection, layers, layer, *of_layer), None

    # The cache is carried, not scanned over: a scan would write the whole of it anew for every token.
    inputs = jnp.arange(config.num_hidden_layers), stacked_params, cache.projection, *of_layers
    (x_BTM, layers), _ = jax.lax.scan(step, (x_BTM, cache.layers), inputs)
    return x_BTM, layers


def rematerialised(block, remat: str):
    """The block under the config's rematerialisation policy."""
    match remat:
        case "none":
            return block
        case "dots":
            policies = jax.checkpoint_policies
            products = policies.dots_with_no_batch_dims_saveable
            attention = policies.save_only_these_names(ATTENTION_OUTPUT)
            return jax.checkpoint(block, policy=policies.save_from_both_policies(products, attention))
        case "full":
            return jax.checkpoint(block)
