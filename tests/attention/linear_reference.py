"""Equations 18 and 19 summed pair by pair in NumPy float64, and the arrays that they are tried on."""

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax import rope
from roformer_jax.attention import favor_projection

EPS = float(np.finfo(np.float32).eps)
BATCH, LENGTH, HEADS, HEAD_DIM, VALUE_DIM, FAVOR = 8, 16, 4, 8, 6, 12
SEGMENT_IDS = np.array(
    [[1] * 5 + [2] * 2 + [3] + [4] * 6 + [0] * 2, [0] * 3 + [7] * 13, [1] * 16, [0] * 16] * 2, np.int32
)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def queries_keys_values(kv_heads=HEADS, key_length=LENGTH, length=LENGTH, batch=BATCH):
    kv_shape = (batch, key_length, kv_heads)
    return normal(0, batch, length, HEADS, HEAD_DIM), normal(1, *kv_shape, HEAD_DIM), normal(2, *kv_shape, VALUE_DIM)


def weights_of(feature_map, rotate, positions=None):
    """The keyword arguments of the kind of attention."""
    positions = jnp.arange(LENGTH) if positions is None else positions
    features = FAVOR if (feature_map, rotate) == ("favor", "after") else HEAD_DIM
    table = None if rotate == "none" else rope.rotation(positions, rope.frequencies(features))
    projection = favor_projection(jax.random.key(3), HEAD_DIM, FAVOR) if feature_map == "favor" else None
    arguments = {"rotation": table, "layout": "interleaved", "feature_map": feature_map, "projection": projection}
    return arguments | {"rotate": "after" if rotate == "none" else rotate}


def numpy_features(x, feature_map, projection, query):
    """[..., D] -> [..., F], with the exponentials of a query or of all keys of the array over their largest."""
    match feature_map:
        case "elu":
            return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
        case "relu":
            return np.maximum(x, 0)
        case "softmax":
            exponents = x
        case "favor":
            scaled = x / HEAD_DIM**0.25
            exponents = scaled @ np.asarray(projection, np.float64).T - (scaled**2).sum(-1, keepdims=True) / 2
    features = np.exp(exponents - exponents.max(axis=-1 if query else None, keepdims=True))
    return features / features.sum(-1, keepdims=True) if feature_map == "softmax" and query else features


def numpy_rotated(x, table):
    """Equation 12: each pair is a complex number, turned by that of its position."""
    turn = np.asarray(table.cos, np.float64) + 1j * np.asarray(table.sin, np.float64)
    z = (x[..., ::2] + 1j * x[..., 1::2]) * turn[..., None, :]
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def brute_force(q, k, v, *, rotation, feature_map, projection, rotate, causal=False, segment_ids=None, layout=None):
    """Equation 18 or 19 in float64 from all pairs, and a bound of the rounding of the same sums in float32."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    if rotation is not None and rotate == "before":
        q, k = numpy_rotated(q, rotation), numpy_rotated(k, rotation)
    phi, varphi = (numpy_features(x, feature_map, projection, query) for x, query in ((q, True), (k, False)))
    visible = np.ones((q.shape[0], 1, q.shape[1], k.shape[1]), bool)
    if causal:
        visible &= np.tri(q.shape[1], dtype=bool)
    if segment_ids is not None:
        visible &= ((segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] != 0))[:, None]
    below = np.einsum("blhf,bshf->bhls", phi, varphi) * visible
    above = below
    if rotation is not None and rotate == "after":
        above = np.einsum("blhf,bshf->bhls", numpy_rotated(phi, rotation), numpy_rotated(varphi, rotation)) * visible
    denominator = below.sum(-1)
    safe = np.where(denominator > 0, denominator, np.inf)
    out = np.einsum("bhls,bshd->blhd", above / safe[..., None], v)
    # A rotation mixes two channels, so that a rounding error is of the size of the norms, not of the products.
    norms = np.einsum("blh,bsh->bhls", *(np.linalg.norm(x, axis=-1) for x in (phi, varphi))) * visible
    size = (norms.sum(-1) / safe).max(initial=0.0) * np.abs(v).max()
    exponents = np.abs(q).max() ** 2 * np.sqrt(HEAD_DIM)  # of random features; their relative error is EPS times that
    operations = HEAD_DIM + q.shape[1] + (4 * exponents if feature_map == "favor" else 8)
    return out, operations * EPS * size
