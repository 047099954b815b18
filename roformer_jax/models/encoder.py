"""The RoFormer encoder: token and segment embeddings, then a scan over stacked post-norm blocks."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from roformer_jax.attention import dropout
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.layers import Block, layer_norm
from roformer_jax.rope import frequencies, packed_positions, rotation
from roformer_jax.sharding import gathered, like
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray


def lookup(embed: nnx.Embed, ids: Int[Array, "..."]) -> Float[Array, "... width"]:
    """Rows of an embedding in its compute dtype; an id outside the table gives NaN, so that it cannot pass unseen."""
    table_VM = gathered(embed.embedding[...])
    rows = table_VM.at[ids].get(mode="fill", wrap_negative_indices=False, out_sharding=like(ids, extra_axes=1))
    return rows.astype(embed.dtype)


def sinusoidal(positions: Int[Array, "batch length"], width: int) -> Float[Array, "batch length width"]:
    """Eq. 4: p[2t] = sin(position / 10000^(2t/width)), p[2t + 1] = cos of the same angle."""
    phases = rotation(positions, frequencies(width))
    return jnp.stack([phases.sin, phases.cos], axis=-1).reshape(*positions.shape, width)


class Embeddings(nnx.Module):
    """Token + segment (+ absolute position) embeddings, LayerNorm, dropout."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Embed:
            init = nnx.initializers.normal(config.initializer_range)
            dtype = jnp.dtype(config.dtype)
            return nnx.Embed(rows, config.hidden_size, embedding_init=init, dtype=dtype, rngs=rngs)

        self.config = config
        self.token = table(config.vocab_size)
        self.token_type = table(config.type_vocab_size)
        if config.position_encoding == "learned":
            self.position = table(config.max_position_embeddings)
        self.norm = layer_norm(config, rngs=rngs)

    def __call__(
        self,
        ids_BL: Int[Array, "batch length"],
        token_type_ids_BL: Int[Array, "batch length"],
        positions_BL: Int[Array, "batch length"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch length width"]:
        """What enters the first block; `key` is for dropout."""
        x_BLM = lookup(self.token, ids_BL) + lookup(self.token_type, token_type_ids_BL)
        if self.config.position_encoding == "learned":
            x_BLM += lookup(self.position, positions_BL)
        if self.config.position_encoding == "sinusoidal":
            x_BLM += sinusoidal(positions_BL, self.config.hidden_size).astype(x_BLM.dtype)
        return dropout(gathered_call(self.norm, x_BLM), self.config.hidden_dropout_prob, key)


def gathered_call(module: nnx.Module, *args: Any) -> Array:
    """Call a module with whole copies of its parameters."""
    graphdef, params = nnx.split(module)
    return nnx.merge(graphdef, gathered(params))(*args)


class Encoder(nnx.Module):
    """Contextual vectors of packed rows: attention stays inside a segment, and positions restart with each."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        make_block = nnx.vmap(lambda rngs: Block(config, rngs=rngs), in_axes=0, out_axes=0)
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
          token_type_ids_BL: which text of a pair, in [0, type_vocab_size); all 0 when None.
          key: dropout key; None evaluates without dropout.

        Returns:
          Hidden states in the compute dtype; those of padding carry no meaning.
        """
        config = self.config
        config.check_length(ids_BL.shape[1])
        embedding_key, block_key = (None, None) if key is None else jax.random.split(key)
        positions_BL = packed_positions(segment_ids_BL)
        types_BL = jnp.zeros_like(ids_BL) if token_type_ids_BL is None else token_type_ids_BL
        x_BLM = self.embeddings(ids_BL, types_BL, positions_BL, embedding_key)
        phases = None  # made once here, so that every block and head shares one table
        if config.position_encoding == "rope":
            phases = rotation(positions_BL, frequencies(config.head_size, config.rope_theta))
        graphdef, stacked_params = nnx.split(self.blocks)

        def run_block(x_BLM, inputs):
            params, key = inputs
            return nnx.merge(graphdef, gathered(params))(x_BLM, segment_ids_BL, phases, key), None

        keys = None if block_key is None else jax.random.split(block_key, config.num_hidden_layers)
        x_BLM, _ = jax.lax.scan(rematerialised(run_block, config.remat), x_BLM, (stacked_params, keys))
        return x_BLM


def rematerialised(block, remat: str):
    """The block under the config's rematerialisation policy."""
    match remat:
        case "none":
            return block
        case "dots":
            return jax.checkpoint(block, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
        case "full":
            return jax.checkpoint(block)
