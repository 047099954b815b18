"""The program of an update, made of what a config says: there need be no data, no parameters and no devices."""

import math
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from roformer_jax.sharding import BATCH_AXES, parameter_shardings
from roformer_jax.tasks.task import Problem
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.state import TrainState, create_state
from roformer_jax.training.step import TrainStep, make_train_step
from roformer_jax.typing import Array, PRNGKeyArray


class Update(NamedTuple):
    """An update and the shapes of what it takes.

    Attributes:
      step: `step(state, batch) -> (state, metrics)`.
      state: shape, dtype and sharding of every array of the training state.
      batch: the same of a batch, filled up with empty rows where the devices do not divide it, as `place_batch` does.
    """

    step: TrainStep
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]


def make_update(
    problem: Problem, config: OptimizerConfig, steps: int, mesh: Mesh, key: PRNGKeyArray, spike_sigmas: float
) -> Update:
    """The update of a run of so many steps on a mesh; `key` and `spike_sigmas` as in `make_train_step`."""
    shapes = jax.eval_shape(problem.model.init, jax.eval_shape(lambda: jax.random.key(0)))
    optimizer = make_optimizer(config, steps, shapes)
    return Update(
        step=make_train_step(problem.loss, optimizer, make_schedule(config, steps), key, spike_sigmas),
        state=abstract_state(problem, shapes, optimizer, mesh),
        batch=abstract_batch(problem, mesh),
    )


def abstract_state(problem: Problem, shapes, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first update of parameters of these shapes."""
    shardings = parameter_shardings(mesh, shapes, problem.model.axes)
    params = jax.tree.map(lambda leaf, sharding: placed(leaf, mesh, sharding.spec), shapes, shardings)
    state = jax.eval_shape(lambda params: create_state(params, optimizer), params)
    whole = PartitionSpec()
    return jax.tree.map(lambda leaf: placed(leaf, mesh, leaf.sharding.spec if leaf.sharding else whole), state)


def abstract_batch(problem: Problem, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch of a problem on a mesh."""
    groups = math.prod(mesh.shape[axis] for axis in BATCH_AXES)

    def filled(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        microbatches, rows, *rest = array.shape
        return jax.ShapeDtypeStruct((microbatches, rows + -rows % groups, *rest), array.dtype)

    rows = PartitionSpec(None, BATCH_AXES)
    return {name: placed(filled(array), mesh, rows) for name, array in problem.batch.items()}


def placed(shape: jax.ShapeDtypeStruct | Array, mesh: Mesh, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    """An array of this shape, laid out on a mesh."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, spec))
