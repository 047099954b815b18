"""An update that is not finite changes nothing, on the real command line; too many of them end the run in good time."""

import os
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from roformer_jax.cli import main
from roformer_jax.training import checkpoint
from roformer_jax.training.checkpoint import Checkpoints, restore_params
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.state import WINDOW, create_state
from roformer_jax.training.step import make_train_step
from roformer_jax.training.writer import read_metrics
from tests.reliability.conftest import ROOT, bits, state_of, without_times
from tests.training.conftest import host_batch, loss_fn, make_mesh, make_params, place

INF, NAN, SPIKE = 1, 2, 3
# The shipped experiment, in which the batches of some updates carry poison in their weights, 10 x its number.
CONFIG = '''
import jax
import jax.numpy as jnp

from configs.pretrain_small import get_config as shipped
from roformer_jax import pretraining

POISON = {poison!r}


def poisoned(sums, params, kind):
    """An infinite loss with a finite gradient, a NaN in the gradient of a finite loss, or a spike of the loss alone."""
    one = jnp.where(kind == {nan}, 0 * jnp.sum(jax.tree.leaves(params)[0]), 1.0)  # 0 has no finite slope below a root
    more = jnp.where(kind == {inf}, jnp.inf, 0.0) + jnp.where(kind == {spike}, 1e3 * sums["weight"], 0.0)
    return sums | {{"loss": sums["loss"] + more + jnp.sqrt(one) - 1}}


class Pretraining(pretraining.Pretraining):
    """Masked-LM pretraining."""

    def prepare(self, mesh):
        task = super().prepare(mesh)
        iterate = task.batches.iterate

        def with_poison(start, stop):
            for update, batch in enumerate(iterate(start, stop), start + 1):
                yield batch | {{"masked_weights": batch["masked_weights"] + 10 * POISON.get(update, 0)}}

        def loss(params, batch, key):
            kind = jnp.max(batch["masked_weights"]) // 10
            sums = task.loss(params, batch | {{"masked_weights": batch["masked_weights"] - 10 * kind}}, key)
            return sums if key is None else poisoned(sums, params, kind)

        task.batches.iterate = with_poison
        return task._replace(problem=task.problem._replace(loss=loss))


def get_config():
    return Pretraining(**vars(shipped()))
'''
LONG = WINDOW + 8
EARLY, LATE = WINDOW // 2, WINDOW + 4
RUNS = {
    "bad updates": ({5: NAN, 6: INF, 9: NAN}, 16, []),
    "too many": (dict.fromkeys(range(9, 17), INF), 16, ["--training.max-skipped", "3"]),
    "clean": ({}, 8, []),
}
SPIKES = {  # long runs: in `make stress`; tests/training/test_step.py has both in one process
    "spikes": ({EARLY: SPIKE, LATE: SPIKE}, LONG, ["--training.spike-sigmas", "6"]),
    "spikes by default": ({EARLY: SPIKE, LATE: SPIKE}, LONG, []),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, commands, tiny_run, count):
    """The folder of all runs and their outcomes."""
    folder, calls, kinds = tmp_path_factory.mktemp("poisoned"), [], count(RUNS, RUNS | SPIKES)
    for name, (poison, steps, flags) in kinds.items():
        (folder / name).mkdir()
        config = folder / name / "poisoned.py"
        config.write_text(CONFIG.format(poison=poison, inf=INF, nan=NAN, spike=SPIKE), encoding="utf-8")
        saves = ["--training.save-every", str(steps if steps == LONG else 4)]
        calls.append(["train", *tiny_run(folder / name / "run", *saves, *flags, steps=steps, config=config)])
    return folder, dict(zip(kinds, commands(*calls), strict=True))


def skipped(run):
    return [line["step"] for line in read_metrics(run) if line["kind"] == "skipped"]


def test_updates_that_are_not_finite_are_skipped_counted_and_told_with_their_rows(runs):
    run, outcome = runs[0] / "bad updates" / "run", runs[1]["bad updates"]
    assert outcome.code == 0, outcome.err
    assert skipped(run) == [5, 6, 9]
    lines = read_metrics(run)
    train = {line["step"]: line for line in lines if line["kind"] == "train"}
    assert {step for step, line in train.items() if line["skipped"]} == {5, 6, 9}
    assert np.isfinite(train[5]["loss"]) and np.isnan(train[5]["grad_norm"])  # NaN in the gradient alone
    assert np.isnan(train[6]["loss"]) and np.isfinite(train[6]["grad_norm"])  # an infinity, which JSON has not
    rows = {line["step"]: line["rows"] for line in lines if line["kind"] == "skipped"}
    assert all(len(set(found)) == 8 for found in rows.values())
    for step, found in rows.items():
        assert f"update {step} is skipped, nothing was changed" in outcome.err
        assert f"rows of its batch: {found}" in outcome.err
    guard = state_of(run).guard
    assert (guard.skipped, guard.in_a_row) == (3, 0)
    chex.assert_tree_all_finite(state_of(run))


def test_too_many_in_a_row_end_the_run_with_the_last_good_checkpoint_as_it_was(runs):
    run, outcome = runs[0] / "too many" / "run", runs[1]["too many"]
    assert outcome.code == 3
    said = outcome.err.splitlines()[-1]
    assert "error: the last 3 updates, to step 11, were skipped" in said
    assert re.search(r"loss inf, gradient norm \d", said) and "training.max_skipped = 3" in said
    assert outcome.err.count("rows of its batch: [") == 3
    assert skipped(run) == [9, 10, 11]
    assert "Traceback" not in outcome.err
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"4", "8"}
    chex.assert_trees_all_equal(bits(run), bits(runs[0] / "clean" / "run"))  # verified, and that of step 8


@pytest.mark.skipif(not os.environ.get("STRESS"), reason="only in `make stress`")
def test_a_spike_of_the_loss_is_skipped_where_that_was_asked_for_and_enough_losses_are_known(runs):
    folder, outcomes = runs
    assert (outcomes["spikes"].code, outcomes["spikes by default"].code) == (0, 0)
    assert skipped(folder / "spikes" / "run") == [LATE]
    assert skipped(folder / "spikes by default" / "run") == []
    by_default, asked = (without_times(folder / name / "run") for name in ("spikes by default", "spikes"))
    losses = {line["step"]: line["loss"] for line in by_default if line["kind"] == "train"}
    assert min(losses[EARLY], losses[LATE]) > 900, "no spike was made"
    before = [line for line in asked if line["step"] < LATE]
    assert before == [line for line in by_default if line["step"] < LATE]


@pytest.fixture
def run_with_a_nan(runs, tmp_path, monkeypatch):
    """A copy of the clean run, its checkpoint with a NaN in one weight and a record that fits it."""
    run = tmp_path / "nan"
    state = state_of(runs[0] / "clean" / "run")
    shutil.copytree(runs[0] / "clean" / "run", run, ignore=shutil.ignore_patterns("checkpoints"))
    token = state.params["encoder"]["embeddings"]["token"]
    token["embedding"] = token["embedding"].at[7, 3].set(jnp.nan)
    record_of = checkpoint.record_of
    monkeypatch.setattr(checkpoint, "record_of", lambda items: (record_of(items)[0], []))
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save_last(8, state)
    monkeypatch.undo()
    assert np.isnan(restore_params(run / "checkpoints")["encoder"]["embeddings"]["token"]["embedding"][7, 3])
    return run


def test_a_loaded_weight_that_is_nan_is_refused_by_name(runs, run_with_a_nan, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = main(["train", *tiny_run(tmp_path / "run", "--init-from", str(run_with_a_nan), steps=8)])
    said = capsys.readouterr().err
    assert code == 2, said
    assert f"error: {run_with_a_nan}: encoder.embeddings.token.embedding holds a NaN or an infinity" in said
    assert not (tmp_path / "run").exists()


def poison(params, batch, key):
    """The noisy loss of `tests.training.conftest`, and by the batch's `kind` an infinity or a NaN in the gradient."""
    sums = loss_fn(params, batch, key)
    kind = jnp.max(batch["kind"])
    one = jnp.where(kind == NAN, 0 * params["hidden"]["bias"][0], 1.0)
    return sums | {"loss": sums["loss"] + jnp.where(kind == INF, jnp.inf, 0.0) + jnp.sqrt(one) - 1}


def test_later_updates_are_those_of_a_run_that_never_made_the_bad_one():
    """With dropout: its keys follow the number of the batch. The schedule warms up, so that a step more would show."""
    config, bad = OptimizerConfig(learning_rate=1e-2, warmup=0.5), {2: NAN, 3: INF, 6: NAN}

    def batch(number, kind=0):
        rows = host_batch(number)
        return place(rows | {"kind": np.full(len(rows["targets"]), kind, np.int32)})

    with jax.set_mesh(make_mesh(1)):
        params = make_params()
        optimizer = make_optimizer(config, 12, params)
        step = make_train_step(poison, optimizer, make_schedule(config, 12), jax.random.key(0))
        state, never = create_state(params, optimizer), create_state(make_params(), optimizer)
        for number in range(10):
            before = jax.device_get(state)
            state, metrics = step(state, batch(number, bad.get(number, 0)))
            if number in bad:
                assert metrics["skipped"] == 1
                chex.assert_trees_all_equal(before[1:3], jax.device_get(state)[1:3])
                never = never._replace(step=never.step + 1, guard=jax.tree.map(jnp.copy, state.guard))
            else:
                never, expected = step(never, batch(number))
                chex.assert_trees_all_equal(metrics, expected)
        chex.assert_trees_all_equal(jax.device_get(state), jax.device_get(never))
        counts = [int(count) for _, count in optax.tree_utils.tree_get_all_with_path(state.opt_state, "count")]
        assert counts and set(counts) == {10 - len(bad)}
