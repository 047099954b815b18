"""RoFormer in JAX: the RoPE library (`roformer_jax.rope`), the model, and the code that trains it."""

__version__ = "0.1.0"
