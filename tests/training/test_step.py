import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from roformer_jax.errors import InputError
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.state import WINDOW, create_state
from roformer_jax.training.step import evaluate_means, make_eval_step, make_train_step

EPS = float(np.finfo(np.float32).eps)
CONFIG = OptimizerConfig(learning_rate=1e-2)
STEPS = 20


def without_noise(loss_fn):
    return lambda params, batch, key: loss_fn(params, batch, None)


def start(problem, loss_fn, steps=STEPS):
    params = problem.make_params()
    optimizer = make_optimizer(CONFIG, steps, params)
    step = make_train_step(loss_fn, optimizer, make_schedule(CONFIG, steps), jax.random.key(0))
    return create_state(params, optimizer), step


def test_update_is_that_of_the_mean_loss_of_the_whole_batch_however_it_is_cut(problem):
    with jax.set_mesh(problem.make_mesh(2)):
        params = problem.make_params()
        batch = problem.host_batch(0)
        sgd = optax.sgd(1.0)

        def mean_loss(params):
            sums = problem.loss_fn(params, jax.tree.map(lambda rows: rows[0], problem.place(batch)), None)
            return sums["loss"] / sums["weight"]

        loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(params)
        expected = jax.device_get(jax.tree.map(jnp.subtract, params, gradients))
        assert len({rows.sum() for rows in np.split(batch["weights"], 4)}) > 1, "the cuts must differ in weight"
        for microbatches in (1, 2, 4):
            step = make_train_step(without_noise(problem.loss_fn), sgd, optax.constant_schedule(1.0), jax.random.key(0))
            state, metrics = step(create_state(problem.make_params(), sgd), problem.place(batch, microbatches))
            chex.assert_trees_all_close(jax.device_get(state.params), expected, rtol=0, atol=64 * EPS)
            np.testing.assert_allclose(metrics["loss"], loss, rtol=16 * EPS)
            np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradients), rtol=16 * EPS)
            assert metrics["weight"] == batch["weights"].sum()
            assert state.step == 1


def test_metrics_name_the_learning_rate_of_this_update_and_every_mean(problem):
    with jax.set_mesh(problem.make_mesh(1)):
        state, step = start(problem, problem.loss_fn)
        schedule = make_schedule(CONFIG, STEPS)
        for n in range(3):
            state, metrics = step(state, problem.place(problem.host_batch(n)))
            names = {"loss", "error", "weight", "grad_norm", "learning_rate", "skipped", "skipped_in_a_row"}
            assert set(metrics) == names
            assert metrics["learning_rate"] == schedule(n)
            assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())


def test_noise_differs_between_steps_and_between_microbatches(problem):
    def noise(params, batch, key):
        return {"loss": 0 * params["out"]["kernel"].sum(), "weight": jnp.float32(1), "draw": jax.random.normal(key)}

    with jax.set_mesh(problem.make_mesh(1)):
        draws = []
        for microbatches in (1, 2):
            state, step = start(problem, noise)
            for _ in range(3):
                state, metrics = step(state, problem.place(problem.host_batch(0), microbatches))
                draws.append(float(metrics["draw"]))
    assert len(set(draws)) == 6
    key = jax.random.fold_in(jax.random.key(0), 1)
    first, second = (jax.random.normal(jax.random.fold_in(key, index)) for index in (0, 1))
    assert draws[1] == first
    np.testing.assert_allclose(draws[4], (first + second) / 2, rtol=4 * EPS)


def test_batch_of_no_weight_changes_nothing_but_decay_and_gives_no_nan(problem):
    with jax.set_mesh(problem.make_mesh(1)):
        state, step = start(problem, problem.loss_fn)
        batch = problem.host_batch(0)
        bias = np.array(state.params["hidden"]["bias"])
        state, metrics = step(state, problem.place(batch | {"weights": np.zeros_like(batch["weights"])}))
        chex.assert_tree_all_finite((state, metrics))
        assert metrics["loss"] == metrics["grad_norm"] == metrics["weight"] == 0
        np.testing.assert_array_equal(state.params["hidden"]["bias"], bias)


def test_step_is_traced_and_compiled_once(problem, caplog):
    with jax.set_mesh(problem.make_mesh(8, fsdp=4)), jax.log_compiles():
        state, step = start(problem, chex.assert_max_traces(problem.loss_fn, n=1))
        for n in range(4):
            state, _ = step(state, problem.place(problem.host_batch(n), microbatches=2))
    compilations = [record for record in caplog.records if record.getMessage().startswith("Compiling jit(train_step)")]
    assert len(compilations) == 1


def test_one_two_and_eight_devices_give_the_same_losses(problem):
    losses = {}
    for devices, fsdp in ((1, 1), (2, 1), (8, 1), (8, 4)):
        with jax.set_mesh(problem.make_mesh(devices, fsdp)):
            state, step = start(problem, problem.loss_fn)
            losses[devices, fsdp] = []
            for batch in problem.batches(0, STEPS):
                state, metrics = step(state, batch)
                losses[devices, fsdp].append(float(metrics["loss"]))
    reference = losses.pop((1, 1))
    assert reference[-1] < reference[0] / 2, "the problem must be learnt"
    for found in losses.values():
        np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_optimizer_state_is_laid_out_like_the_parameters(problem):
    with jax.set_mesh(problem.make_mesh(8, fsdp=4)):
        state, _ = start(problem, problem.loss_fn)
        adam = optax.tree.get(state.opt_state, "mu")
        for moment, param in zip(jax.tree.leaves(adam), jax.tree.leaves(state.params), strict=True):
            assert moment.sharding.is_equivalent_to(param.sharding, param.ndim)
        assert state.step.sharding.is_fully_replicated
        assert state.step == 0


def test_evaluation_is_the_mean_over_the_set_however_it_is_batched(problem):
    with jax.set_mesh(problem.make_mesh(2)):
        params, rows = problem.make_params(), [problem.host_batch(n) for n in range(3)]
        eval_step = make_eval_step(problem.loss_fn)
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
        expected = {name: float(value) for name, value in eval_step(params, problem.place(whole)).items()}
        weight = expected.pop("weight")
        for microbatches in (1, 2):
            found = evaluate_means(eval_step, params, (problem.place(batch, microbatches) for batch in rows))
            assert found == pytest.approx({name: total / weight for name, total in expected.items()}, rel=16 * EPS)
        with pytest.raises(InputError, match="no batch"):
            evaluate_means(eval_step, params, [])


def test_evaluation_adds_in_float64():
    big = {"loss": np.float32(2**24), "weight": np.float32(1)}
    one = {"loss": np.float32(1), "weight": np.float32(1)}
    sums = iter([big, one, one])
    assert evaluate_means(lambda params, batch: next(sums), {}, [{}] * 3) == {"loss": (2**24 + 2) / 3}


def poison(batch, value):
    """The batch with one target replaced, so that the loss and every gradient become `value` or NaN."""
    targets = batch["targets"].copy()
    targets[np.flatnonzero(batch["weights"])[0]] = value
    return batch | {"targets": targets}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize(("devices", "fsdp", "microbatches"), [(1, 1, 1), (8, 4, 2)])
def test_an_update_that_is_not_finite_changes_nothing_but_the_count(problem, value, devices, fsdp, microbatches):
    """1e30 is finite, its square is not."""
    with jax.set_mesh(problem.make_mesh(devices, fsdp)):
        state, step = start(problem, problem.loss_fn)
        state, good = step(state, problem.place(problem.host_batch(0), microbatches))
        before = jax.device_get(state)
        bad_batch = poison(problem.host_batch(1), value)
        state, bad = step(state, problem.place(bad_batch, microbatches))
        assert (good["skipped"], bad["skipped"], bad["skipped_in_a_row"]) == (0, 1, 1)
        assert not np.isfinite(bad["loss"])
        expected = before._replace(step=np.int32(2), guard=before.guard._replace(skipped=1, in_a_row=1))
        chex.assert_trees_all_equal(jax.device_get(state), expected)


def test_after_skipped_updates_the_schedule_and_the_optimizer_go_on_as_if_those_had_not_been(problem):
    with jax.set_mesh(problem.make_mesh(1)):
        quiet = without_noise(problem.loss_fn)  # the noise depends on the number of the batch
        batches = [problem.host_batch(n) for n in range(3)]
        state, step = start(problem, quiet)
        for batch in batches:
            state, expected = step(state, problem.place(batch))
        reference = jax.device_get(state)
        state, step = start(problem, quiet)
        for batch in (batches[0], poison(batches[1], np.nan), poison(batches[2], np.inf), batches[1], batches[2]):
            state, found = step(state, problem.place(batch))
        chex.assert_trees_all_equal(found, expected)
        chex.assert_trees_all_equal(
            jax.device_get(state), reference._replace(step=5, guard=reference.guard._replace(skipped=2))
        )


def test_a_spike_is_skipped_once_there_are_enough_losses_to_tell_and_by_default_never(problem):
    with jax.set_mesh(problem.make_mesh(1)):
        params = problem.make_params()
        sgd = optax.sgd(0.0)  # so that the losses differ by their batches alone
        spike = poison(problem.host_batch(0), 1e6)
        for sigmas, skipped in ((math.inf, 0), (6.0, 1)):
            step = make_train_step(problem.loss_fn, sgd, optax.constant_schedule(0.0), jax.random.key(0), sigmas)
            state, losses = create_state(problem.make_params(), sgd), []
            state, early = step(state, problem.place(spike))
            for n in range(WINDOW):
                state, metrics = step(state, problem.place(problem.host_batch(n)))
                losses.append(float(metrics["loss"]))
            np.testing.assert_array_equal(np.sort(state.guard.losses), np.sort(np.float32(losses)))
            state, late = step(state, problem.place(spike))
            state, usual = step(state, problem.place(problem.host_batch(0)))
            assert (early["skipped"], late["skipped"], usual["skipped"]) == (0, skipped, 0)
            assert late["loss"] > np.mean(losses) + 6 * np.std(losses)
        chex.assert_trees_all_equal(jax.device_get(state.params), jax.device_get(params))
