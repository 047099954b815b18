"""Whole runs of the loop: stopped, gone on with, finished, and what they leave on disk."""

import os
import signal
from collections import Counter
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest

from roformer_jax.errors import Interrupted
from roformer_jax.training.checkpoint import Checkpoints
from roformer_jax.training.loop import Reporter, TrainingConfig, fit
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.progress import Progress
from roformer_jax.training.signals import StopSignal
from roformer_jax.training.state import abstract, create_state
from roformer_jax.training.step import evaluate_means, make_eval_step, make_train_step
from roformer_jax.training.throughput import Loaded, Throughput
from roformer_jax.training.writer import FILE, MetricsWriter, read_metrics

CONFIG = TrainingConfig(steps=12, eval_every=4, save_every=5)
MESH = 8, 4
TIMES = "seconds", "tokens_per_second", "tokens_per_second_per_device", "model_tflops", "mfu", "data_wait_seconds"
GUARD = {"rows_of": lambda step: [step], "max_skipped": 3}
THROUGHPUT = Throughput(token_flops=6e9, devices=2, peak=1e12)


@pytest.fixture(scope="module")
def compiled():
    """The training and evaluation steps of each mesh, compiled once for all tests of this file."""
    return {}


@pytest.fixture
def run(problem, compiled):
    """One start of the program: restores what `folder` holds, trains, and returns the final state on the host."""

    def make_steps():
        optimizer_config = OptimizerConfig(learning_rate=1e-2, weight_decay=0.1)
        params = problem.make_params()
        optimizer = make_optimizer(optimizer_config, CONFIG.steps, params)
        schedule = make_schedule(optimizer_config, CONFIG.steps)
        train_step = make_train_step(problem.loss_fn, optimizer, schedule, jax.random.key(3))
        return SimpleNamespace(optimizer=optimizer, train=train_step, eval=make_eval_step(problem.loss_fn))

    def run(folder, config=CONFIG, *, mesh=MESH, at_batch=lambda step: None, evaluate_first=True):
        def batches(start, stop):
            for step, batch in zip(range(start, stop), problem.batches(start, stop), strict=True):
                at_batch(step)
                yield Loaded(batch, tokens=100, padding=0.0)

        with jax.set_mesh(problem.make_mesh(*mesh)):
            if mesh not in compiled:
                compiled[mesh] = make_steps()
            steps = compiled[mesh]
            held_out = [problem.place(problem.host_batch(1000))]
            with StopSignal() as stop, Checkpoints(folder / "checkpoints") as checkpoints:
                state = create_state(problem.make_params(), steps.optimizer)
                state = checkpoints.restore_newest(abstract(state)) or state
                start = int(state.step)
                with MetricsWriter(folder, start_step=start) as writer, Progress(config.steps, start=start) as progress:
                    state = fit(
                        state,
                        config,
                        train_step=steps.train,
                        batches=batches,
                        evaluate=lambda params, between: evaluate_means(steps.eval, params, held_out, between),
                        evaluate_first=evaluate_first,
                        checkpoints=checkpoints,
                        reporter=Reporter(writer, progress, THROUGHPUT, **GUARD),
                        stop=stop,
                    )
            return jax.tree.map(np.array, state)

    return run


def terminate_at(batch):
    """Sends SIGTERM to this process while it makes the given batch, if there is one."""
    return lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == batch else None


def without_times(lines):
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def steps_of(lines, kind):
    return [line["step"] for line in lines if line["kind"] == kind]


@pytest.mark.parametrize("mesh", [(1, 1), MESH])
@pytest.mark.parametrize("steps_done", [2, 5, 7])
def test_a_run_stopped_and_gone_on_with_is_bitwise_the_run_that_was_not(run, tmp_path, mesh, steps_done):
    whole = run(tmp_path / "whole", mesh=mesh)
    with pytest.raises(Interrupted, match=f"after step {steps_done}") as stopped:
        run(tmp_path / "parts", mesh=mesh, at_batch=terminate_at(steps_done - 1))
    assert stopped.value.step == steps_done
    with Checkpoints(tmp_path / "parts" / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == steps_done
    chex.assert_trees_all_equal(run(tmp_path / "parts", mesh=mesh), whole)
    found, expected = read_metrics(tmp_path / "parts"), read_metrics(tmp_path / "whole")
    assert without_times(found) == without_times(expected)
    assert steps_of(found, "train") == list(range(1, 13))
    assert steps_of(found, "eval") == [0, 4, 8, 12]


def test_random_parameters_are_not_evaluated(run, tmp_path):
    run(tmp_path, evaluate_first=False)
    assert steps_of(read_metrics(tmp_path), "eval") == [4, 8, 12]


def test_a_run_stopped_before_its_first_update_has_nothing_to_save(run, tmp_path):
    with pytest.raises(Interrupted, match="before its first update"):
        run(tmp_path / "parts", at_batch=terminate_at(0))
    assert not list((tmp_path / "parts" / "checkpoints").iterdir())
    chex.assert_trees_all_equal(run(tmp_path / "parts"), run(tmp_path / "whole"))


def test_a_run_that_crashed_repeats_what_came_after_its_checkpoint_and_no_metric_twice(run, tmp_path):
    def crash(step):
        if step == 8:
            raise RuntimeError("power cut")

    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "parts", at_batch=crash)
    assert steps_of(read_metrics(tmp_path / "parts"), "train")[-1] > 5, "there must be something to cut"
    seen = []
    chex.assert_trees_all_equal(run(tmp_path / "parts", at_batch=seen.append), whole)
    assert seen == list(range(5, 12))
    assert without_times(read_metrics(tmp_path / "parts")) == without_times(read_metrics(tmp_path / "whole"))


def test_a_run_gone_on_with_on_other_devices_stays_close(run, tmp_path):
    whole = run(tmp_path / "whole", mesh=(1, 1))
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", mesh=MESH, at_batch=terminate_at(5))
    run(tmp_path / "parts", mesh=(1, 1))
    losses = {
        name: [line["loss"] for line in read_metrics(tmp_path / name) if line["kind"] == "train"]
        for name in ("whole", "parts")
    }
    np.testing.assert_allclose(losses["parts"], losses["whole"], rtol=1e-5)
    assert whole.step == 12


def test_other_batches_give_another_state(run, tmp_path, problem, monkeypatch):
    """The negative control of the tests above."""
    whole = run(tmp_path / "whole")
    batches = problem.batches
    monkeypatch.setattr(problem, "batches", lambda start, stop: batches(start + 1, stop + 1))
    other = run(tmp_path / "other")
    assert not np.array_equal(whole.params["out"]["kernel"], other.params["out"]["kernel"])


def test_a_signal_during_the_last_step_leaves_the_evaluation_for_the_next_start(run, tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted, match="after step 12"):
        run(tmp_path / "parts", at_batch=terminate_at(11))
    assert steps_of(read_metrics(tmp_path / "parts"), "eval") == [0, 4, 8]
    chex.assert_trees_all_equal(run(tmp_path / "parts", at_batch=no_update_is_left), whole)
    assert without_times(read_metrics(tmp_path / "parts")) == without_times(read_metrics(tmp_path / "whole"))


def test_an_evaluation_that_a_signal_cuts_short_is_made_when_the_run_goes_on(run, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    evaluation, times = Reporter.evaluation, []

    def interrupted_evaluation(self, step, values):
        times.append(step)
        if times == [0, 4]:
            raise Interrupted
        evaluation(self, step, values)

    monkeypatch.setattr(Reporter, "evaluation", interrupted_evaluation)
    with pytest.raises(Interrupted, match="after step 4"):
        run(tmp_path / "parts")
    chex.assert_trees_all_equal(run(tmp_path / "parts"), whole)
    assert times == [0, 4, 4, 8, 12]
    assert without_times(read_metrics(tmp_path / "parts")) == without_times(read_metrics(tmp_path / "whole"))


def no_update_is_left(step):
    pytest.fail(f"update {step + 1} was made again")


def test_a_finished_run_is_left_alone(run, tmp_path):
    final = run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    metrics = (tmp_path / FILE).read_text()
    chex.assert_trees_all_equal(run(tmp_path, at_batch=no_update_is_left), final)
    assert (tmp_path / FILE).read_text() == metrics
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}


def test_metrics_are_on_disk_before_the_checkpoint_of_their_step_begins(run, tmp_path, monkeypatch):
    save, flush, events = Checkpoints.save, MetricsWriter.flush, []

    def recording_save(self, step, state, after):
        def asked():
            events.append("asked")
            assert after()
            lines = read_metrics(tmp_path)
            events.append(("on disk", steps_of(lines, "train")[-1], Counter(steps_of(lines, "eval"))[step]))
            return True

        save(self, step, state, after=asked)
        events.append("begun")

    monkeypatch.setattr(Checkpoints, "save", recording_save)
    monkeypatch.setattr(MetricsWriter, "flush", lambda self: (events.append("flush"), flush(self))[1])
    run(tmp_path)
    for place, at in enumerate([(5, 0), (10, 0), (12, 1)]):
        assert events[4 * place : 4 * place + 4] == ["asked", "flush", ("on disk", *at), "begun"]


def test_batches_that_end_too_early_are_an_error_and_not_a_finished_run(run, problem, tmp_path, monkeypatch):
    batches = problem.batches
    monkeypatch.setattr(problem, "batches", lambda start, stop: batches(start, stop - 1))
    with pytest.raises(ValueError, match="shorter"):
        run(tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 10
