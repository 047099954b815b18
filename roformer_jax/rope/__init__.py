"""Rotary position embeddings for JAX: arrays in, arrays out, exact at any position.

    freqs = rope.frequencies(head_dim)                             # equation 15, float64 on the host
    table = rope.rotation(positions, freqs)                        # once per model call, shared by all layers
    q, k = rope.rotate_qk(q, k, table, layout="interleaved")       # [batch, length, heads, head_dim]

Every function works under `jit`, `vmap`, `grad`, `scan` and `shard_map`; nothing is cached and no module is needed.
"""

from roformer_jax.rope.apply import rotate, rotate_qk
from roformer_jax.rope.layouts import convert_layout
from roformer_jax.rope.positions import packed_positions
from roformer_jax.rope.rotations import Rotation, rotation
from roformer_jax.rope.spectra import frequencies

__all__ = [
    "Rotation",
    "convert_layout",
    "frequencies",
    "packed_positions",
    "rotate",
    "rotate_qk",
    "rotation",
]
