"""Spectra of several position axes: which axis turns which rotary pair (axial, M-RoPE), or both axes at once (mixed).

A grid or a video gives every token one position per axis, [..., L, A] (`grid_positions`). `rotation` sums the angles of
the axes, so a spectrum [A, F] says everything: one nonzero entry per column is axial RoPE, full columns are mixed RoPE.
"""

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.rope.spectra import frequencies
from roformer_jax.typing import Array, Float, Int, PRNGKeyArray


def contiguous_sections(sizes: tuple[int, ...]) -> Int[np.ndarray, "pairs"]:
    """Returns the axis of every pair, one section after another: 0 0 .. 1 1 .. 2 2 ..

    M-RoPE of Qwen2-VL and GLM-4V (transformers, `models/qwen2_vl` and `models/glm4v`); for any number of axes.

    Args:
        sizes: pairs of each axis, the `mrope_section` of a configuration, for example (16, 24, 24).

    Raises:
        ValueError: if there is no axis, or one without pairs.
    """
    _check_sizes(sizes)
    return np.repeat(np.arange(len(sizes)), sizes)


def strided_sections(sizes: tuple[int, ...]) -> Int[np.ndarray, "pairs"]:
    """Returns the axis of every pair, dealt in turn: 0 1 2 0 1 2 .. until an axis has its pairs; axis 0 gets the rest.

    Interleaved M-RoPE of Qwen3-VL (transformers, `models/qwen3_vl`, `mrope_interleaved`): axis a >= 1 owns pairs
    a, a + A, .., of which there must be enough; the implementations named drop silently those that do not fit.

    Args:
        sizes: pairs of each axis, for example (24, 20, 20).

    Raises:
        ValueError: as `contiguous_sections`, or if the pairs of an axis do not fit at this stride.
    """
    _check_sizes(sizes)
    axes, pairs = len(sizes), sum(sizes)
    axis_of_pair = np.zeros(pairs, int)
    for axis, size in enumerate(sizes[1:], start=1):
        places = len(range(axis, pairs, axes))
        if size > places:
            raise ValueError(
                f"sections {sizes} give axis {axis} {size} pairs, but {pairs} pairs dealt to {axes} axes in turn "
                f"have only {places} places for it; use contiguous or wrapped sections"
            )
        axis_of_pair[axis : axes * size : axes] = axis
    return axis_of_pair


def wrapped_sections(sizes: tuple[int, ...]) -> Int[np.ndarray, "pairs"]:
    """Returns the axis of every pair, dealt in turn, the turn of an axis that has all its pairs going to the next one.

    GLM's interleaved M-RoPE (sgl-project/sglang, `srt/layers/rotary_embedding/mrope.py`, `mrope_interleaved_glm`):
    (8, 12, 12) is 0 1 2 eight times, then 1 1 2 1 1 2 2 2. It fits any sizes, and differs from `strided_sections`
    after the first axis is full.

    Args:
        sizes: pairs of each axis.

    Raises:
        ValueError: as `contiguous_sections`.
    """
    _check_sizes(sizes)
    left = list(sizes)
    axis_of_pair = []
    for pair in range(sum(sizes)):
        axis = pair % len(sizes)
        while not left[axis]:
            axis = (axis + 1) % len(sizes)
        left[axis] -= 1
        axis_of_pair.append(axis)
    return np.array(axis_of_pair)


def per_axis(
    freqs: Float[Array | np.ndarray, "pairs"], axis_of_pair: Int[np.ndarray, "mapped_pairs"]
) -> Float[Array | np.ndarray, "axes pairs"]:
    """Returns the spectrum in which every pair turns with one axis: column f is `freqs[f]` in row `axis_of_pair[f]`.

    M-RoPE deals one spectrum to the axes, so text, whose positions agree on every axis, is rotated as by plain RoPE.

    Args:
        freqs: radians per token [F], scaled or not; NumPy stays NumPy float64.
        axis_of_pair: axis of every pair [F], as from `contiguous_sections`, `strided_sections` or `wrapped_sections`.

    Raises:
        ValueError: if the sections do not add up to F pairs, or name a negative axis.
    """
    if freqs.shape != axis_of_pair.shape:
        raise ValueError(
            f"freqs of shape {freqs.shape} and axis_of_pair of shape {axis_of_pair.shape} must both be [F]: "
            "the sections have to add up to the number of rotary pairs"
        )
    if axis_of_pair.min() < 0:
        raise ValueError(f"axis_of_pair counts axes from 0, got {axis_of_pair.min()}")
    turns_with = np.arange(axis_of_pair.max() + 1)[:, None] == axis_of_pair
    return freqs[None] * turns_with.astype(freqs.dtype)


def axial_frequencies(*spectra: Float[Array | np.ndarray, "_"]) -> Float[Array | np.ndarray, "axes pairs"]:
    """Returns the block diagonal of one spectrum per axis: the first pairs turn with axis 0, the next with axis 1, ..

    Axial RoPE of RoPE-ViT (arXiv 2403.13298): for a head of D channels and two axes, `axial_frequencies(freqs, freqs)`
    with `freqs = frequencies(D // 2, theta)`, so that each axis has the whole range of wavelengths.

    Args:
        spectra: radians per step of each axis, [F_1], .., [F_A]; NumPy stays NumPy float64.

    Returns:
        [A, F_1 + .. + F_A].

    Raises:
        ValueError: if there is no spectrum, or an empty one.
    """
    library = jnp if any(isinstance(spectrum, jax.Array) for spectrum in spectra) else np
    axis_of_pair = contiguous_sections(tuple(spectrum.size for spectrum in spectra))
    return per_axis(library.concatenate(spectra), axis_of_pair)


def mixed_frequencies(
    key: PRNGKeyArray, dim: int, num_heads: int, theta: float = 10.0
) -> Float[Array, "2 {num_heads} pairs"]:
    """Returns initial values for frequencies that are learned per head, so that a pair turns along any direction.

    RoPE-Mixed of RoPE-ViT (arXiv 2403.13298; naver-ai/rope-vit, `init_2d_freqs`): every head draws a
    direction; half of its pairs turn along it and half across it, with the frequencies of axial RoPE as magnitudes.
    Every head has its own table: `rotation(positions, freqs, exact=False)`, which has a gradient, is [.., L, H, F], and
    `rotate(.., head_axis=None)` takes it. Axis 0 is the first axis of the positions, of an image the row; parameters
    of RoPE-ViT hold the column first.

    Args:
        key: random key.
        dim: rotated channels of one head, a multiple of 4.
        num_heads: heads H.
        theta: base of the magnitudes `theta^(-4i / dim)`.

    Returns:
        float32 [2, H, dim / 2], radians per step.

    Raises:
        ValueError: if `dim` is no positive multiple of 4, or there is no head.
    """
    if dim <= 0 or dim % 4 or num_heads <= 0:
        raise ValueError(f"dim must be a positive multiple of 4 and num_heads positive, got {dim} and {num_heads}")
    magnitudes = jnp.asarray(frequencies(dim // 2, theta), jnp.float32)[None]
    direction = jax.random.uniform(key, (num_heads, 1), maxval=2 * jnp.pi)
    cos, sin = jnp.cos(direction) * magnitudes, jnp.sin(direction) * magnitudes
    return jnp.stack([jnp.concatenate([cos, -sin], axis=-1), jnp.concatenate([sin, cos], axis=-1)])


def _check_sizes(sizes: tuple[int, ...]) -> None:
    """Raises a ValueError unless every axis has pairs."""
    if not sizes or min(sizes) <= 0:
        raise ValueError(f"every position axis needs a positive number of rotary pairs, got sections {sizes}")
