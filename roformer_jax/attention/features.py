"""Feature maps of linear attention: phi and varphi of equation 18, non-negative, and safe in float32.

The maps by exponents are divided by a constant: of a query its own, of the keys of a row one for all of them (for each
head). It cancels in every ratio of equations 18 and 19.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.typing import Array, Bool, Float, Int, PRNGKeyArray

FeatureMap = Callable[[Array], Array]
BY_EXPONENTS = ("softmax", "favor")
ELEMENTWISE: dict[str, FeatureMap] = {"elu": lambda x: jax.nn.elu(x) + 1, "relu": jax.nn.relu}
# The largest exponent of a row's keys is brought to within this: float32 holds e^-87 to e^88, and the rest is room for
# sums over keys, products with values and, below, keys of the same row that weigh less.
_LARGEST_EXPONENT = 60.0


def favor_projection(key: PRNGKeyArray, head_dim: int, num_features: int) -> Float[Array, "num_features head_dim"]:
    """Returns the random directions of FAVOR+: each normal with unit variance, orthogonal in blocks of `head_dim`.

    Each block is a uniformly random orthogonal matrix (Gram-Schmidt of a normal one), whose rows take the lengths of
    independent normal vectors (Choromanski et al., arXiv 2009.14794, section 2.4).

    Args:
        key: randomness.
        head_dim: channels of a query, D.
        num_features: directions, any number; for equation 19 it must be even.

    Raises:
        ValueError: if a size is not positive.
    """
    if head_dim < 1 or num_features < 1:
        raise ValueError(f"head_dim and num_features must be positive, got {head_dim} and {num_features}")
    directions_key, lengths_key = jax.random.split(key)
    blocks = -(-num_features // head_dim)
    normal = jax.random.normal(directions_key, (blocks, head_dim, head_dim))
    orthogonal, upper = jnp.linalg.qr(normal)
    # The decomposition with a positive diagonal is unique: that one is uniformly distributed.
    orthogonal *= jnp.sign(jnp.diagonal(upper, axis1=1, axis2=2))[:, None, :]
    directions = jnp.swapaxes(orthogonal, 1, 2).reshape(-1, head_dim)[:num_features]
    lengths = jnp.linalg.norm(jax.random.normal(lengths_key, (num_features, head_dim)), axis=1)
    return directions * lengths[:, None]


def redrawn_favor_projection(
    key: PRNGKeyArray, step: int | Int[Array, ""], head_dim: int, num_features: int, *, every: int
) -> Float[Array, "num_features head_dim"]:
    """Returns the projection of a training step: a new one after `every` steps, a function of key and step alone.

    Raises:
        ValueError: if `every` or a size is not positive.
    """
    if every < 1:
        raise ValueError(f"a projection is redrawn every 1 step or more, got {every}")
    return favor_projection(jax.random.fold_in(key, step // every), head_dim, num_features)


def favor_exponents(
    x: Float[Array, "*batch head_dim"], projection: Float[Array, "num_features head_dim"]
) -> Float[Array, "*batch num_features"]:
    """Returns `w . x' - |x'|^2 / 2 - log(M) / 2` with `x' = x / D^(1/4)`, for every direction w of the M.

    Their exponentials are the positive random features of FAVOR+: `sum(exp(favor_exponents(q) + favor_exponents(k)))`
    has the mean `exp(q . k / sqrt(D))` over projections (arXiv 2009.14794, lemma 1).
    """
    num_features, head_dim = projection.shape
    scaled = x * head_dim**-0.25
    half_norms = jnp.sum(scaled * scaled, axis=-1, keepdims=True) / 2
    return scaled @ projection.astype(x.dtype).T - (half_norms + math.log(num_features) / 2)


def query_features(
    q_BLHD: Float[Array, "batch length heads head_dim"], feature_map: str | FeatureMap, projection: Array | None
) -> Float[Array, "batch length heads features"]:
    """Returns phi(q); with "favor" over the largest feature of each query."""
    match feature_map:
        case "softmax":
            return jax.nn.softmax(q_BLHD, axis=-1)
        case "favor":
            exponents = favor_exponents(q_BLHD, projection)
            return jnp.exp(exponents - jax.lax.stop_gradient(jnp.max(exponents, axis=-1, keepdims=True)))
        case _:
            return _elementwise(feature_map)(q_BLHD)


def key_features(
    k_BSKD: Float[Array, "batch key_length kv_heads head_dim"],
    feature_map: str | FeatureMap,
    projection: Array | None,
    *,
    valid: Bool[Array, "batch key_length"] | None,
    log_scale: Float[Array, "batch kv_heads"] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, "batch key_length kv_heads features"], Float[Array, "batch kv_heads"]]:
    """Returns `varphi(k) / exp(log_scale)`, zero where a key is not valid, and the log_scale, which has no gradient.

    Args:
        k_BSKD: keys.
        feature_map: a name, or a function.
        projection: of "favor".
        valid: which keys are tokens; None: all.
        log_scale: of earlier keys of the same rows: the new one is not below it.
        axis_name: mesh axis over which the keys of a row are spread.
    """
    batch, _, kv_heads, _ = k_BSKD.shape
    seen = None if valid is None else valid[:, :, None, None]
    if feature_map not in BY_EXPONENTS:
        features = _elementwise(feature_map)(k_BSKD)
        kept = features if seen is None else jnp.where(seen, features, 0)
        return kept, jnp.zeros((batch, kv_heads), k_BSKD.dtype) if log_scale is None else log_scale
    exponents = k_BSKD if feature_map == "softmax" else favor_exponents(k_BSKD, projection)
    lowest = jnp.finfo(exponents.dtype).min
    visible = exponents if seen is None else jnp.where(seen, exponents, lowest)
    largest = jax.lax.stop_gradient(jnp.max(visible, axis=(1, 3)))
    if axis_name is not None:
        largest = jax.lax.pmax(largest, axis_name)
    scale = largest - jnp.clip(largest, -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    if log_scale is not None:
        scale = jnp.maximum(scale, log_scale)
    shifted = exponents - scale[:, None, :, None]
    return jnp.exp(shifted if seen is None else jnp.where(seen, shifted, -jnp.inf)), scale


def check_feature_map(feature_map: str | FeatureMap, projection: Array | None, head_dim: int) -> None:
    """Refuses unknown names, a projection that does not fit, and a function with negative features.

    A function is evaluated on a fixed sample of 256 vectors: wide enough to find an elementwise function that is
    negative between -10 and 10. (One that closes over traced arrays cannot be evaluated, and is not checked.)

    Raises:
        ValueError: with what was found.
    """
    if callable(feature_map):
        _check_non_negative(feature_map, head_dim)
    elif feature_map not in (*ELEMENTWISE, *BY_EXPONENTS):
        known = ", ".join((*ELEMENTWISE, *BY_EXPONENTS))
        raise ValueError(f"unknown feature map {feature_map!r}; there are {known}, or pass a function")
    if (feature_map == "favor") != (projection is not None):
        raise ValueError(
            'feature_map="favor" needs a projection (see favor_projection), and no other map takes one; '
            f"got feature_map={feature_map!r} and {'no' if projection is None else 'a'} projection"
        )
    if projection is not None and (projection.ndim != 2 or projection.shape[1] != head_dim):
        raise ValueError(
            f"the projection has shape {projection.shape}, but queries of {head_dim} channels need "
            f"[num_features, {head_dim}]"
        )


def _check_non_negative(feature_map: FeatureMap, head_dim: int) -> None:
    """Raises a ValueError that names a vector component with a negative feature."""
    sample = np.random.default_rng(0).uniform(-10, 10, (1, 256, 1, head_dim)).astype(np.float32)
    with jax.ensure_compile_time_eval():
        features = feature_map(jnp.asarray(sample))
    if isinstance(features, jax.core.Tracer):
        return
    lowest = np.asarray(features, np.float32).min()
    if not lowest >= 0:
        raise ValueError(
            "a feature map must be non-negative, or denominators of linear attention vanish; on vectors between -10 "
            f"and 10 {getattr(feature_map, '__name__', feature_map)} falls to {lowest:.3g}"
        )


def _elementwise(feature_map: str | FeatureMap) -> FeatureMap:
    return feature_map if callable(feature_map) else ELEMENTWISE[feature_map]
