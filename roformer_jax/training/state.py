"""All that a run must remember between two updates; randomness and data order are functions of the step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from roformer_jax.typing import Array, Int, PyTree


class TrainState(NamedTuple):
    """State after `step` updates.

    Attributes:
        step: number of updates made.
        params: nested dict of float32 arrays.
        opt_state: state of the optax optimizer, its moments laid out like `params`.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: optax.OptState


def create_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update; the optimizer's moments take the shardings of `params`."""

    @jax.jit
    def start(params):
        return jnp.zeros((), jnp.int32), optimizer.init(params)

    step, opt_state = start(params)
    return TrainState(step, params, opt_state)


def abstract(state: TrainState) -> TrainState:
    """Shape, dtype and sharding of every array of `state`: the target to restore a checkpoint onto."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state)
