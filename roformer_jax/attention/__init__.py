"""Attention over rotated queries and keys: [batch, length, heads, head_dim] in and out."""

from roformer_jax.attention.dropout import dropout
from roformer_jax.attention.masks import MASK_VALUE, attention_mask
from roformer_jax.attention.softmax import dot_product_attention

__all__ = ["MASK_VALUE", "attention_mask", "dot_product_attention", "dropout"]
