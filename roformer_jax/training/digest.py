"""A digest of what arrays hold, the same however they are laid out over devices; and whether all of it is finite.

No format of checkpoints notices a flipped bit in saved weights. These digests are stored beside them and computed again
from what was read. They show damage, not malice: whoever can write the weights can write the digests.
"""

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.sharding import like
from roformer_jax.typing import Array, Bool, PyTree, UInt

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def name_of(path: tuple) -> str:
    """The name of a leaf, e.g. params/encoder/embeddings/embedding."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaf_digest(x: Array) -> UInt[Array, "2"]:
    """64 bits of the content of `x`: the bits of every element mixed with its place, and summed modulo 2^32 twice.

    Integer sums do not depend on their order, so neither does the digest on the sharding. Every mixture is a bijection
    of the element's bits, so one flipped bit always changes the sum.
    """
    bits = jax.lax.bitcast_convert_type(x, WORDS[x.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    if x.ndim and (sharding := like(x)) is not None:
        place = jax.reshard(place, sharding)
    mixed = _mix(place * jnp.uint32(0x9E3779B1) + jnp.uint32(1), jnp.uint32(0x85EBCA77))
    # Before it meets its place: a product keeps low zeros, of which floats such as 2.0 have little else.
    bits = _mix(bits, jnp.uint32(0xC2B2AE3D))
    first = _mix(bits ^ mixed, jnp.uint32(0x27D4EB2F))
    second = (bits + mixed) * (mixed | jnp.uint32(1))
    return jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in (first, second)])


def _mix(x: Array, odd: Array) -> Array:
    """A bijection of 32 bits in which high bits reach low ones."""
    x = (x ^ (x >> 15)) * odd
    return x ^ (x >> 13)


@jax.jit
def _digests(leaves: list[Array]) -> tuple[list[UInt[Array, "2"]], list[Bool[Array, ""]]]:
    return [leaf_digest(leaf) for leaf in leaves], [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]


def digests(tree: PyTree) -> tuple[dict[str, str], list[str]]:
    """The digest of every leaf under its name, and the names of leaves that hold a NaN or an infinity.

    Args:
      tree: arrays of numbers of 1, 2 or 4 bytes, on any mesh. Over several processes all of them call this together.

    Returns:
      16 hexadecimal digits for each leaf, and the names of the leaves that are not finite.
    """
    named = [(name_of(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    found, finite = jax.device_get(_digests([leaf for _, leaf in named]))
    names = [name for name, _ in named]
    hexadecimal = {name: lanes.astype(">u4").tobytes().hex() for name, lanes in zip(names, found, strict=True)}
    return hexadecimal, [name for name, fine in zip(names, finite, strict=True) if not np.asarray(fine)]
