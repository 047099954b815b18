"""Analysis of spectra and of implementations: on the host, in float64, before anything is rounded to float32."""

import math
from collections import deque
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from roformer_jax.rope.spectra import Spectrum, frequencies
from roformer_jax.typing import Array, Float, Shaped

BLOCK = 2**18  # angles evaluated at once: 4 MiB of complex numbers
SUSPECTS = 64  # distances tried before all others in the search for theta; fewer repeat work, more delay each step


def wavelengths(freqs: Float[Array | np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Returns the tokens that each pair takes for one turn: `2 pi / |frequency|`, infinite for pairs that stand still.

    Args:
        freqs: radians per token, of any shape.
    """
    with np.errstate(divide="ignore"):
        return math.tau / np.abs(np.asarray(freqs, np.float64))


def decay_bound(freqs: Spectrum, distances: Shaped[Array | np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Returns the relative upper bound of a score at each distance, which figure 2 of the paper plots for dim = 128.

    The mean over j = 1..F of |S_j|, with `S_j = sum_{i < j} exp(1j * distance * freqs[i])` (equations 35 to 37): the
    score is at most F times this, times the largest change of `q_i conj(k_i)` from one pair to the next. It falls from
    (F + 1) / 2 at distance 0, but as a trend only: it goes up at nearly every second step.

    Args:
        freqs: radians per token [F], fastest first.
        distances: tokens, of any shape and sign.
    """
    freqs, flat = np.asarray(freqs, np.float64), np.asarray(distances, np.float64).ravel()
    bound = np.empty(flat.size)
    rows = max(BLOCK // freqs.size, 1)
    for first in range(0, flat.size, rows):
        angles = np.outer(flat[first : first + rows], freqs)
        bound[first : first + rows] = np.abs(np.cumsum(np.exp(1j * angles), axis=1)).mean(axis=1)
    return bound.reshape(distances.shape)


def cosine_sums(freqs: Spectrum, length: int) -> Float[np.ndarray, "length"]:
    """Returns `sum_i cos(m * freqs[i])` at the distances m = 0 .. length - 1.

    In proportion to the mean advantage in attention of a key that is like the query over a random one: where it is
    negative, attention prefers the random key (arXiv 2405.14591).

    Args:
        freqs: radians per token [F].
        length: distances wanted.

    Raises:
        ValueError: if `length` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    # cos(a + b) = cos a cos b - sin a sin b needs some sqrt(length) cosines per pair, not length. The sums over pairs
    # are too small to gain from the threads of a matrix product, which wait for each other: einsum has none.
    stride = math.isqrt(length - 1) + 1
    coarse, fine = (
        np.outer(at, np.asarray(freqs, np.float64)) for at in (np.arange(0, length, stride), np.arange(stride))
    )
    cosines, sines = (np.einsum("cf,nf->cn", of(coarse), of(fine)) for of in (np.cos, np.sin))
    return (cosines - sines).ravel()[:length]


def base_lower_bound(length: int, dim: int = 128, *, resolution: float = 1e-4) -> float:
    """Returns the smallest theta for which no distance below `length` has a negative cosine sum (arXiv 2405.14591).

    A necessary condition for using a context of this length; a larger theta may break it again (for dim = 128 and
    32,768 tokens, 630,000 keeps it and 700,000 does not): ask `cosine_sums` about a given one.

    The search goes up from theta = 1 and leaps over every theta that it can rule out: at distance m the sum changes by
    at most `m * sum_i (i / F) * freqs[i]` per unit of ln theta, so a negative sum stays negative for a while. The
    distances that ruled out the last thetas are tried first. Two seconds for 32,768 tokens, ten for 131,072, and
    minutes for a million.

    Args:
        length: tokens of the context, at least 2.
        dim: rotated channels of a head, even and at least 4.
        resolution: smallest leap, a fraction of theta (positive): narrower ranges of good thetas may be missed. The
            paper's own search was coarser: it gives 7.8e6 for 131,072 tokens, and there are good thetas from 4.9e6 on.

    Raises:
        ValueError: if `length`, `dim` or `resolution` is outside its range.
    """
    if length < 2 or dim < 4 or dim % 2 or not resolution > 0:
        raise ValueError(
            "a lower bound of theta needs length >= 2, an even dim >= 4 and resolution > 0, "
            f"got length={length}, dim={dim}, resolution={resolution}"
        )
    pairs = dim // 2
    exponents, distances = np.arange(pairs) / pairs, np.arange(1, length)
    suspects, log_theta = deque([1], maxlen=SUSPECTS), 0.0
    while True:
        freqs = frequencies(dim, math.exp(log_theta))
        leap = np.max(-np.cos(np.outer(suspects, freqs)).sum(axis=1) / suspects)
        if leap <= 0:
            leaps = -cosine_sums(freqs, length)[1:] / distances
            leap, suspect = leaps.max(), distances[leaps.argmax()]
            if leap <= 0:
                return math.exp(log_theta)
            suspects.append(suspect)
        log_theta += max(leap / (freqs @ exponents), resolution)


def relative_error(
    rotate_function: Callable[[Array, Array], Array | np.ndarray],
    dim: int,
    length: int,
    *,
    samples: int = 32,
    seed: int = 0,
) -> float:
    """Returns by how much an implementation of RoPE breaks the relative law: 0 is perfect, 2 the worst possible.

    The largest `|<R(m) q, R(n) k> - <R(m + s) q, R(n + s) k>| / (|q| |k|)` (equation 16) over all q and k, that is the
    spectral norm of `R(m)^T R(n) - R(m + s)^T R(n + s)`, over random positions m, n and shifts s. Exact phases stay
    below 1e-6 at any length; float32 angles reach 5e-2 at a million tokens, tables in bfloat16 8e-3 at any.
    No rotation at all keeps the law too.

        relative_error(lambda x, positions: my_rope(x, positions), dim=128, length=131_072)

    Args:
        rotate_function: any layout and form of RoPE. Takes x, float32 [N, dim], and positions, int32 [N], as JAX
            arrays, and returns [N, dim], each row of x rotated to its position, in any dtype.
        dim: channels of x.
        length: every position is below this; from 2 to 2^31.
        samples: triples (m, n, s) tried; N is `samples * dim`.
        seed: of the positions; the same seed gives the same ones.

    Raises:
        ValueError: if `dim`, `length` or `samples` is outside its range, or what comes back is not [N, dim].
    """
    if dim < 1 or samples < 1 or not 2 <= length <= 2**31:
        raise ValueError(
            "the relative law is tried with dim >= 1, samples >= 1 and 2 <= length <= 2^31 (positions are int32), "
            f"got dim={dim}, samples={samples}, length={length}"
        )
    draw = np.random.default_rng(seed)
    near, far = np.sort(draw.integers(length, size=(2, samples)), axis=0)
    shift = draw.integers(-near, length - far)
    basis = jnp.tile(jnp.eye(dim, dtype=jnp.float32), (samples, 1))

    def rotated_basis(positions: np.ndarray) -> np.ndarray:
        rows = np.asarray(rotate_function(basis, jnp.asarray(np.repeat(positions, dim), jnp.int32)), np.float64)
        if rows.shape != basis.shape:
            raise ValueError(f"rotate_function returned shape {rows.shape} for x of shape {basis.shape}")
        return rows.reshape(samples, dim, dim)

    def scores(query_positions: np.ndarray, key_positions: np.ndarray) -> np.ndarray:
        return rotated_basis(query_positions) @ rotated_basis(key_positions).swapaxes(1, 2)

    difference = scores(far, near) - scores(far + shift, near + shift)
    return float(np.linalg.norm(difference, ord=2, axis=(1, 2)).max())
