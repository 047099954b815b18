"""One update, and one evaluation step, as pure jitted functions of pytrees.

A batch is a dict of arrays [microbatches, rows, ...]. A loss function returns *sums* over the rows it is given; they
are added over the microbatches and divided once, by the weight of the whole batch. So the loss, its gradient and every
metric are those of the whole batch, however it is cut and wherever its weight falls.
"""

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from roformer_jax.errors import InputError
from roformer_jax.training.state import WINDOW, Guard, TrainState
from roformer_jax.typing import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

Batch = dict[str, Shaped[Array, "microbatches rows ..."]]
Sums = dict[str, Float[Array, ""]]
LossFn = Callable[[PyTree, dict[str, Array], PRNGKeyArray | None], Sums]
"""(params, microbatch, key or None) -> float32 sums: "loss", "weight" (the number of terms in it), and any others."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Sums]]
EvalStep = Callable[[PyTree, Batch], Sums]
Between = Callable[[], None]
"""Called between the batches of an evaluation; ends it by raising."""
AHEAD = 2  # steps of an evaluation that are dispatched before one is waited for


def never_stops() -> None:
    """A `Between` that lets an evaluation run to its end."""


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    key: PRNGKeyArray,
    spike_sigmas: float = math.inf,
) -> TrainStep:
    """Makes `step(state, batch) -> (state, metrics)`; the given state's memory is reused for the new one.

    An update whose loss or gradient norm is not finite, or whose loss is a spike, is skipped: it changes neither the
    parameters nor the optimizer's state, in which the schedule counts. Only its batch is used up.

    The random key of a microbatch is `key` folded with the step and the microbatch's index: nothing to save.
    `metrics` are float32 scalars: each sum over the weight ("loss" and whatever else `loss_fn` returns), the total
    "weight", "grad_norm" before clipping, the "learning_rate" of this update, "skipped" (1 or 0), and
    "skipped_in_a_row".

    Args:
        loss_fn: gives the sums.
        optimizer: makes updates of gradients.
        schedule: gives the learning rate that is reported; the optimizer has its own.
        key: of all randomness.
        spike_sigmas: a loss is a spike when it is above the mean of the last `WINDOW` ones by more than so many of
            their standard deviations.
    """

    # The key is an argument, not a constant of the program: another seed finds the same entry in the compile cache.
    @functools.partial(jax.jit, donate_argnames="state")
    def train_step(state, batch, key):
        summed, sums = _sum_gradients(loss_fn, state.params, batch, jax.random.fold_in(key, state.step))
        weight = jnp.maximum(sums["weight"], 1.0)
        scale = 1 / weight
        means = {name: total / weight for name, total in sums.items()}
        norm = optax.tree.norm(_scaled(summed, scale))
        made = state.step - state.guard.skipped
        good = jnp.isfinite(means["loss"]) & jnp.isfinite(norm) & ~_is_spike(means["loss"], state, spike_sigmas)
        params, opt_state = _update_if(good, optimizer, summed, scale, state)
        losses = state.guard.losses
        guard = Guard(
            skipped=state.guard.skipped + ~good,
            in_a_row=jnp.where(good, 0, state.guard.in_a_row + 1),
            losses=jax.lax.select(good, losses.at[made % WINDOW].set(means["loss"]), losses),
        )
        metrics = means | {
            "weight": sums["weight"],
            "grad_norm": norm,
            "learning_rate": jnp.asarray(schedule(made), jnp.float32),
            "skipped": (~good).astype(jnp.float32),
            "skipped_in_a_row": guard.in_a_row.astype(jnp.float32),
        }
        return TrainState(state.step + 1, params, opt_state, guard), metrics

    return functools.partial(train_step, key=key)


def _update_if(
    good: Bool[Array, ""], optimizer: optax.GradientTransformation, summed: PyTree, scale: Array, state: TrainState
) -> tuple[PyTree, optax.OptState]:
    """Parameters and optimizer state after an update by `summed * scale` if it is `good`, bitwise the old ones if not.

    By a branch, because XLA:CPU copies all moments for a selection. It takes the sums as the backward pass left them:
    scaled gradients would be written to memory for it, which costs a TPU 2 % of a step.
    """

    def update(summed: PyTree, scale: Array, old: tuple[PyTree, optax.OptState]) -> tuple[PyTree, optax.OptState]:
        params, opt_state = old
        updates, opt_state = optimizer.update(_scaled(summed, scale), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.lax.cond(good, update, lambda _summed, _scale, old: old, summed, scale, (state.params, state.opt_state))


def _scaled(gradients: PyTree, scale: Array) -> PyTree:
    """By a product, which is computed anew where it is used; a quotient is written to memory first."""
    return jax.tree.map(lambda gradient: gradient * scale, gradients)


def _is_spike(loss: Float[Array, ""], state: TrainState, sigmas: float) -> Bool[Array, ""]:
    """Whether a loss stands out from the last `WINDOW` ones; never before there are so many (as OLMo and Levanter)."""
    losses = state.guard.losses
    full = state.step - state.guard.skipped >= WINDOW
    return full & (loss > jnp.mean(losses) + sigmas * jnp.std(losses))


def make_eval_step(loss_fn: LossFn) -> EvalStep:
    """Makes `step(params, batch) -> sums` of the whole batch, without randomness."""

    @jax.jit
    def eval_step(params, batch):
        sums = jax.lax.map(lambda microbatch: loss_fn(params, microbatch, None), batch)
        return jax.tree.map(lambda terms: terms.sum(axis=0), sums)

    return eval_step


def evaluate_means(
    eval_step: EvalStep, params: PyTree, batches: Iterable[Batch], between: Between = never_stops
) -> dict[str, float]:
    """The means over all `batches` of what `eval_step` sums, added in float64 on the host.

    Raises:
        InputError: there is no batch.
        Exception: what `between` raises.
    """
    sums = []
    for batch in batches:
        between()
        sums.append(eval_step(params, batch))
        # Steps are dispatched asynchronously, but not so far ahead that `between` would be asked long before they run.
        jax.block_until_ready(sums[:-AHEAD][-1:])
    if not sums:
        raise InputError("the evaluation set gave no batch: it has no examples")
    sums = jax.device_get(sums)
    totals = {name: float(np.sum([terms[name] for terms in sums], dtype=np.float64)) for name in sums[0]}
    weight = max(totals.pop("weight"), 1.0)
    return {name: total / weight for name, total in totals.items()}


def _sum_gradients(loss_fn: LossFn, params: PyTree, batch: Batch, key: PRNGKeyArray) -> tuple[PyTree, Sums]:
    """Gradient of the summed loss and the sums, added in float32 over the microbatches."""

    def loss_and_sums(params, microbatch, key):
        sums = loss_fn(params, microbatch, key)
        return sums["loss"], sums

    def add(total, numbered_microbatch):
        index, microbatch = numbered_microbatch
        gradients, sums = jax.grad(loss_and_sums, has_aux=True)(params, microbatch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, gradients), sums

    microbatches = jax.tree.leaves(batch)[0].shape[0]
    if microbatches == 1:  # nothing to add: a loop would write zeros for every parameter, and read them again
        only = jax.tree.map(lambda rows: rows[0], batch)
        return jax.grad(loss_and_sums, has_aux=True)(params, only, jax.random.fold_in(key, 0))
    zeros = jax.tree.map(lambda param: jnp.zeros_like(param, jnp.float32), params)
    gradients, sums = jax.lax.scan(add, zeros, (jnp.arange(microbatches), batch))
    return gradients, jax.tree.map(lambda terms: terms.sum(axis=0), sums)
