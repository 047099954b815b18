"""Our side of the benchmarks: the step that an experiment trains with, for any model and loss."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.machine import timed
from roformer_jax.models import Model
from roformer_jax.sharding import MeshConfig, make_mesh, place_batch
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.state import create_state
from roformer_jax.training.step import make_train_step

NUM_STEPS = 10_000  # of the run that the learning-rate schedule stands for


class Training:
    """A run from random parameters, update by update: clipping, AdamW, schedule and metrics as a user has them."""

    def __init__(self, model: Model, loss: Callable, config: OptimizerConfig | None = None):
        config = config or OptimizerConfig()
        self._mesh = make_mesh(MeshConfig())
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        with jax.set_mesh(self._mesh):
            whole = NamedSharding(self._mesh, PartitionSpec())
            optimizer = make_optimizer(config, NUM_STEPS, shapes)
            self._state = create_state(jax.jit(model.init, out_shardings=whole)(jax.random.key(0)), optimizer)
            self._step = make_train_step(loss, optimizer, make_schedule(config, NUM_STEPS), jax.random.key(1))

    def update(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """One update on a batch of the host; its metrics."""
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._step(self._state, place_batch(batch, self._mesh))
        return metrics

    def seconds(self, batch: Mapping[str, np.ndarray]) -> float:
        """Seconds of one update, from the batch on the host to the new parameters."""

        def update():
            self.update(batch)
            return self._state

        return timed(update)
