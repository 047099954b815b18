"""A block and its parts: linear maps and norms with the paper's initialisation, self-attention, feed-forward."""

import jax
import jax.numpy as jnp
from flax import nnx

from roformer_jax.attention import dot_product_attention, dropout
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.rope import Rotation, rotate_qk
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray


def linear(config: RoFormerConfig, in_features, out_features, *, axis=-1, rngs: nnx.Rngs) -> nnx.LinearGeneral:
    """A dense map over `axis`, normal(initializer_range) kernel, zero bias, computed in the config's dtype."""
    return nnx.LinearGeneral(
        in_features, out_features, axis=axis, kernel_init=nnx.initializers.normal(config.initializer_range),
        dtype=jnp.dtype(config.dtype), rngs=rngs,
    )  # fmt: skip


def layer_norm(config: RoFormerConfig, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over the width with float32 statistics (two-pass variance: epsilon is far below its rounding)."""
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, dtype=jnp.dtype(config.dtype), use_fast_variance=False,
        rngs=rngs,
    )  # fmt: skip


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU, x Phi(x), as in BERT."""
    return jax.nn.gelu(x, approximate=False)


class SelfAttention(nnx.Module):
    """Softmax self-attention whose queries and keys, never values, are rotated (eq. 14-16)."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        heads = (config.num_attention_heads, config.head_size)
        self.dropout_rate = config.attention_probs_dropout_prob
        self.query_key_value = linear(config, config.hidden_size, (3, *heads), rngs=rngs)
        self.output = linear(config, heads, config.hidden_size, axis=(-2, -1), rngs=rngs)

    def __call__(
        self,
        x_BLM: Float[Array, "batch length width"],
        segment_ids_BL: Int[Array, "batch length"],
        rotation: Rotation | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch length width"]:
        """Mixed values of each token's segment; `rotation` None leaves queries and keys as they are."""
        qkv = self.query_key_value(x_BLM)
        q_BLHD, k_BLHD, v_BLHD = (qkv[:, :, i] for i in range(3))
        if rotation is not None:
            q_BLHD, k_BLHD = rotate_qk(q_BLHD, k_BLHD, rotation, layout="interleaved")
        mixed_BLHD = dot_product_attention(
            q_BLHD, k_BLHD, v_BLHD, segment_ids=segment_ids_BL, dropout_rate=self.dropout_rate, dropout_key=key
        )
        return self.output(mixed_BLHD)


class Block(nnx.Module):
    """A post-norm transformer block: attention, add, norm, feed-forward, add, norm."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.dropout_rate = config.hidden_dropout_prob
        self.attention = SelfAttention(config, rngs=rngs)
        self.attention_norm = layer_norm(config, rngs=rngs)
        self.up = linear(config, config.hidden_size, config.intermediate_size, rngs=rngs)
        self.down = linear(config, config.intermediate_size, config.hidden_size, rngs=rngs)
        self.output_norm = layer_norm(config, rngs=rngs)

    def __call__(
        self,
        x_BLM: Float[Array, "batch length width"],
        segment_ids_BL: Int[Array, "batch length"],
        rotation: Rotation | None,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch length width"]:
        """The residual stream after the block; `key` is for dropout."""
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        mixed_BLM = self.attention(x_BLM, segment_ids_BL, rotation, keys[0])
        x_BLM = self.attention_norm(x_BLM + dropout(mixed_BLM, self.dropout_rate, keys[1]))
        fed_BLM = self.down(gelu(self.up(x_BLM)))
        return self.output_norm(x_BLM + dropout(fed_BLM, self.dropout_rate, keys[2]))
