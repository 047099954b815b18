"""A small regression problem: an MLP with dropout, batches that are a pure function of the step, on any mesh."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

ROWS, INPUTS, HIDDEN = 16, 8, 32
ROW_AXES = ("data", "fsdp")


def make_mesh(devices: int, fsdp: int = 1) -> jax.sharding.Mesh:
    shape = devices // fsdp, fsdp
    return jax.make_mesh(shape, ROW_AXES, axis_types=(AxisType.Explicit,) * 2, devices=jax.devices()[:devices])


def make_params(seed: int = 0) -> dict:
    """Parameters on the current mesh; the two kernels are sharded over fsdp."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(INPUTS, HIDDEN)).astype(np.float32) / np.sqrt(INPUTS)
    out = rng.normal(size=(HIDDEN, 1)).astype(np.float32) / np.sqrt(HIDDEN)
    return {
        "hidden": {
            "kernel": jax.device_put(hidden, jax.P(None, "fsdp")),
            "bias": jax.device_put(np.zeros(HIDDEN, np.float32), jax.P()),
        },
        "out": {"kernel": jax.device_put(out, jax.P("fsdp"))},
    }


def loss_fn(params, batch, key):
    params = jax.reshard(params, jax.P())
    hidden_BM = jax.nn.relu(batch["inputs"] @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    if key is not None:
        sharding = jax.typeof(hidden_BM).sharding
        hidden_BM *= jax.random.bernoulli(key, 0.9, hidden_BM.shape, out_sharding=sharding)
    error_B = (hidden_BM @ params["out"]["kernel"])[:, 0] - batch["targets"]
    weights_B = batch["weights"]
    return {
        "loss": jnp.sum(weights_B * error_B**2),
        "weight": jnp.sum(weights_B),
        "error": jnp.sum(weights_B * jnp.abs(error_B)),
    }


def host_batch(step: int) -> dict[str, np.ndarray]:
    """Rows of update `step`: a fixed teacher's targets, a third of the weights 0."""
    rng = np.random.default_rng((7, step))
    inputs = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
    weights = (rng.random(ROWS) > 1 / 3).astype(np.float32)
    return {"inputs": inputs, "targets": np.sin(inputs).sum(axis=-1), "weights": weights}


def place(batch: dict[str, np.ndarray], microbatches: int = 1) -> dict[str, jax.Array]:
    cut = {name: rows.reshape(microbatches, -1, *rows.shape[1:]) for name, rows in batch.items()}
    return jax.device_put(cut, jax.P(None, ROW_AXES))


@pytest.fixture
def problem() -> SimpleNamespace:
    return SimpleNamespace(
        make_mesh=make_mesh,
        make_params=make_params,
        loss_fn=loss_fn,
        host_batch=host_batch,
        place=place,
        batches=lambda start, stop: (place(host_batch(step)) for step in range(start, stop)),
    )
