"""Rotary position embeddings for JAX: arrays in, arrays out, exact at any position.

    freqs = rope.frequencies(head_dim)                             # equation 15, float64 on the host
    table = rope.rotation(positions, freqs)                        # once per model call, shared by all layers
    q, k = rope.rotate_qk(q, k, table, layout="interleaved")       # [batch, length, heads, head_dim]

Every function works under `jit`, `vmap`, `grad`, `scan` and `shard_map`; nothing is cached and no module is needed.
"""

from roformer_jax.rope.analysis import base_lower_bound, cosine_sums, decay_bound, relative_error, wavelengths
from roformer_jax.rope.apply import rotate, rotate_qk
from roformer_jax.rope.axes import (
    axial_frequencies,
    contiguous_sections,
    mixed_frequencies,
    per_axis,
    strided_sections,
    wrapped_sections,
)
from roformer_jax.rope.huggingface import RopeSpec, from_huggingface
from roformer_jax.rope.layouts import convert_layout
from roformer_jax.rope.positions import (
    decode_positions,
    grid_positions,
    packed_positions,
    padded_positions,
    positions_from_cu_seqlens,
    positions_from_lengths,
    zigzag_positions,
)
from roformer_jax.rope.rotations import Rotation, rotation, rotation_from_angles, xpos_rotation
from roformer_jax.rope.scaling import (
    longrope_gain,
    scale_dynamic_ntk,
    scale_linear,
    scale_llama3,
    scale_longrope,
    scale_ntk,
    scale_yarn,
    yarn_gain,
)
from roformer_jax.rope.spectra import frequencies

__all__ = [
    "RopeSpec",
    "Rotation",
    "axial_frequencies",
    "base_lower_bound",
    "contiguous_sections",
    "convert_layout",
    "cosine_sums",
    "decay_bound",
    "decode_positions",
    "frequencies",
    "from_huggingface",
    "grid_positions",
    "longrope_gain",
    "mixed_frequencies",
    "packed_positions",
    "padded_positions",
    "per_axis",
    "positions_from_cu_seqlens",
    "positions_from_lengths",
    "relative_error",
    "rotate",
    "rotate_qk",
    "rotation",
    "rotation_from_angles",
    "scale_dynamic_ntk",
    "scale_linear",
    "scale_llama3",
    "scale_longrope",
    "scale_ntk",
    "scale_yarn",
    "strided_sections",
    "wavelengths",
    "wrapped_sections",
    "xpos_rotation",
    "yarn_gain",
    "zigzag_positions",
]
