"""Attention over queries, keys and values [batch, length, heads, head_dim]: softmax over rotated ones, and linear."""

from roformer_jax.attention.blockwise import ATTENTION_OUTPUT
from roformer_jax.attention.dropout import dropout
from roformer_jax.attention.features import favor_projection, redrawn_favor_projection
from roformer_jax.attention.linear import LinearState, linear_attention, linear_attention_step
from roformer_jax.attention.masks import MASK_VALUE, attention_mask
from roformer_jax.attention.softmax import dot_product_attention

__all__ = [
    "ATTENTION_OUTPUT",
    "MASK_VALUE",
    "LinearState",
    "attention_mask",
    "dot_product_attention",
    "dropout",
    "favor_projection",
    "linear_attention",
    "linear_attention_step",
    "redrawn_favor_projection",
]
