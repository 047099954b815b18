"""Two checkpoints of a small model, whose arrays all differ, and what was said when they were read."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from roformer_jax.training.state import create_state

NEWEST, BEFORE = 2, 1


def random_like(leaf, rng):
    """Finite floats of random bits, which no compression shortens: like weights, they lie in the files as they are."""
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf + rng.integers(1, 100)
    bits = rng.integers(2**32, size=leaf.shape, dtype=np.uint32) & ~np.uint32(1 << 30)
    return jnp.asarray(bits.view(np.float32)).astype(leaf.dtype)


def make_state(step: int):
    """A state of a small model; those of two steps differ in every array."""
    encoder = {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32, jnp.bfloat16)}
    state = create_state({"encoder": encoder, "head": {"kernel": jnp.zeros((32, 16))}}, optax.adam(1e-3))
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: random_like(leaf, rng), state)


def bytes_of(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), tree)


def files_of(step_folder):
    return sorted(path for path in step_folder.rglob("*") if path.is_file())


def said(capfd):
    """What is on the standard error, but for the lines that orbax logs."""
    lines = capfd.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match("(WARNING|ERROR):absl:", line))
