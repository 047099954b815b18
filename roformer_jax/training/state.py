"""All that a run must remember between two updates; randomness and data order are functions of the step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from roformer_jax.typing import Array, Float, Int, PyTree

WINDOW = 128  # losses that a spike is judged by


class Guard(NamedTuple):
    """What is remembered of updates that were skipped, and of the losses of those that were not.

    Attributes:
        skipped: how many updates were skipped in the whole run.
        in_a_row: how many were skipped since the last that was not.
        losses: the last losses that were not skipped, at the place (number of the update) modulo `WINDOW`.
    """

    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    losses: Float[Array, "window"]


class TrainState(NamedTuple):
    """State after `step` updates, of which some may have been skipped.

    Attributes:
        step: number of updates made or skipped: the number of batches that were used.
        params: nested dict of float32 arrays.
        opt_state: state of the optax optimizer, its moments laid out like `params`.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: optax.OptState
    guard: Guard


def create_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update; the optimizer's moments take the shardings of `params`."""

    @jax.jit
    def start(params):
        zero = jnp.zeros((), jnp.int32)
        return zero, optimizer.init(params), Guard(zero, zero, jnp.zeros(WINDOW, jnp.float32))

    step, opt_state, guard = start(params)
    return TrainState(step, params, opt_state, guard)


def abstract(state: TrainState) -> TrainState:
    """Shape, dtype and sharding of every array of `state`: the target to restore a checkpoint onto."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state)
