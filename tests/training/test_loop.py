"""The loop's order of things, what it measures of time, and its config."""

import time

import jax.numpy as jnp
import pytest

from roformer_jax.errors import InputError
from roformer_jax.training.checkpoint import Checkpoints
from roformer_jax.training.loop import Reporter, TrainingConfig, fit
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from roformer_jax.training.progress import Progress
from roformer_jax.training.signals import StopSignal
from roformer_jax.training.state import create_state
from roformer_jax.training.throughput import Loaded, Throughput
from roformer_jax.training.writer import MetricsWriter, read_metrics

GUARD = {"rows_of": lambda step: [step], "max_skipped": 3}
THROUGHPUT = Throughput(token_flops=6e9, devices=2, peak=1e12)


@pytest.fixture
def count(tmp_path, monkeypatch):
    """Runs `fit` on a state that only counts, and saves nothing; what it does is told to `tell`."""

    def count(config, tell):
        def train_step(state, batch):
            tell(f"update {int(state.step) + 1}")
            return state._replace(step=state.step + 1), {"loss": jnp.float32(1.0), "skipped_in_a_row": jnp.float32(0)}

        def evaluate(params, between):
            tell("evaluate")
            return {"loss": 1.0}

        def give(step):
            tell(f"batch {step}")
            return Loaded({}, tokens=10 * (step + 1), padding=0.25)

        for save in ("save", "save_last"):
            monkeypatch.setattr(Checkpoints, save, lambda self, step, state, after: tell(f"save {step}"))
        with (
            MetricsWriter(tmp_path) as writer,
            Checkpoints(tmp_path / "checkpoints") as checkpoints,
            Progress(config.steps) as progress,
        ):
            fit(
                create_state({}, make_optimizer(OptimizerConfig(), config.steps, {})),
                config,
                train_step=train_step,
                batches=lambda start, stop: (give(step) for step in range(start, stop)),
                evaluate=evaluate,
                evaluate_first=True,
                checkpoints=checkpoints,
                reporter=Reporter(writer, progress, THROUGHPUT, **GUARD),
                stop=StopSignal(),
            )

    return count


def test_metrics_of_an_update_are_read_after_the_next_is_dispatched(count, monkeypatch):
    events = []
    monkeypatch.setattr(MetricsWriter, "write", lambda self, step, kind, values: events.append(f"{kind} {step}"))
    count(TrainingConfig(steps=4, eval_every=3, save_every=3), events.append)
    assert [event for event in events if "batch" not in event] == [
        *["evaluate", "eval 0"],
        *["update 1", "update 2", "train 1", "update 3", "train 2", "train 3", "evaluate", "eval 3", "save 3"],
        *["update 4", "train 4", "evaluate", "eval 4", "save 4"],
    ]


def test_seconds_leave_out_evaluation_and_saving(count, monkeypatch, tmp_path):
    clock = {"now": 0.0}

    def tick(seconds=1e-3):
        clock["now"] += seconds
        return clock["now"]

    monkeypatch.setattr(time, "perf_counter", tick)
    durations = {"update": 1.0, "batch": 0.5}
    count(TrainingConfig(steps=6, eval_every=2, save_every=3), lambda event: tick(durations.get(event.split()[0], 100)))
    lines = [line for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert sum(line["seconds"] for line in lines) == pytest.approx(9.0, abs=0.1)
    for line in lines:
        assert line["data_wait_seconds"] == pytest.approx(0.5, abs=0.01)
        assert line["padding"] == 0.25
        tokens_per_second = 10 * line["step"] / line["seconds"]
        assert line["tokens_per_second"] == pytest.approx(tokens_per_second)
        assert line["tokens_per_second_per_device"] == pytest.approx(tokens_per_second / 2)
        assert line["model_tflops"] == pytest.approx(tokens_per_second / 2 * 6e9 / 1e12)
        assert line["mfu"] == pytest.approx(tokens_per_second / 2 * 6e9 / 1e12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more, but is 0"),
        ({"eval_every": 0}, "eval_every must be 1 or more, but is 0"),
        ({"save_every": -5}, "save_every must be 1 or more, but is -5"),
        ({"keep": 0}, "keep must be 1 or more, but is 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more, but is 0"),
        ({"epochs": float("nan")}, "epochs = nan must be a number"),
        ({"batch_size": 10, "microbatches": 4}, "microbatches = 4 does not divide training.batch_size = 10"),
    ],
)
def test_a_field_out_of_range_is_refused_by_name_and_value(fields, message):
    with pytest.raises(InputError, match=f"training.{message}"):
        TrainingConfig(**fields)


def test_steps_come_from_the_epochs_unless_they_are_given():
    assert TrainingConfig(epochs=2.5).num_steps(steps_per_epoch=3) == 8
    assert TrainingConfig(epochs=2.5, steps=7).num_steps(steps_per_epoch=3) == 7
