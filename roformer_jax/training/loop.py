"""The training loop: the order of update, metrics, evaluation and checkpoint, written down once.

A checkpoint of step n is begun when the metrics and evaluations up to n are on disk. So a run that goes on from it, and
cuts off the metrics after n, repeats none and lacks none.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax

from roformer_jax.errors import InputError
from roformer_jax.training.checkpoint import Checkpoints
from roformer_jax.training.profile import parse_updates
from roformer_jax.training.progress import Progress
from roformer_jax.training.signals import StopSignal
from roformer_jax.training.state import TrainState
from roformer_jax.training.step import Sums, TrainStep
from roformer_jax.training.throughput import Loaded, Throughput
from roformer_jax.training.writer import MetricsWriter
from roformer_jax.typing import PyTree


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long a run is, and how often it looks up.

    Raises:
        InputError: a field is out of its range; the message names the field and the value.
    """

    batch_size: int = 32
    """Sequences per update, over all devices: packed rows in pretraining, examples (on average) in fine-tuning."""
    microbatches: int = 1
    """Parts in which a batch is computed one after another (gradient accumulation), to save memory."""
    steps: int | None = None
    """Number of updates of the whole run; none: as many as the epochs need."""
    epochs: float = 3.0
    """Passes over the training data, where steps is none."""
    eval_every: int = 100
    """Updates between evaluations; there is always one before the first update and one after the last."""
    save_every: int = 100
    """Updates between checkpoints; there is always one after the last update."""
    keep: int = 2
    """How many of the newest checkpoints stay on disk."""
    profile: str | None = None
    """FIRST:LAST, e.g. 10:15: the updates to trace, both included, into the run's folder profile/ (for xprof)."""

    def __post_init__(self):
        for field in ("batch_size", "microbatches", "eval_every", "save_every", "keep"):
            if getattr(self, field) < 1:
                raise InputError(f"training.{field} must be 1 or more, but is {getattr(self, field)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"training.steps must be 1 or more, but is {self.steps}")
        if self.profile is not None:
            parse_updates(self.profile, self.steps)
        if not 0 < self.epochs < math.inf:
            raise InputError(f"training.epochs must be positive and finite, but is {self.epochs}")
        if self.batch_size % self.microbatches:
            raise InputError(
                f"training.microbatches = {self.microbatches} does not divide training.batch_size = {self.batch_size}"
            )

    def num_steps(self, steps_per_epoch: int) -> int:
        """Number of updates of the whole run."""
        return self.steps or math.ceil(self.epochs * steps_per_epoch)


class Interrupted(Exception):  # noqa: N818 (an event, not an error)
    """A signal stopped the run; its state is saved (once `Checkpoints` is closed) and the same call goes on from there.

    Attributes:
        step: number of updates made and saved.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped by a signal after step {step}; the checkpoint of this step is saved")
        self.step = step


class Reporter:
    """Where metrics go. Those of an update are read one update later, so that reading never empties the device's queue.

    Args:
        writer: takes every value.
        progress: shows some.
        throughput: turns seconds into rates.
    """

    def __init__(self, writer: MetricsWriter, progress: Progress, throughput: Throughput):
        self._writer, self._progress, self._throughput = writer, progress, throughput
        self._pending = None
        self._waited = 0.0
        self._clock = time.perf_counter()

    def waiting(self, batches: Iterator[Loaded]) -> Iterator[Loaded]:
        """Yields the batches, and takes the time that the loop waits for each."""
        while True:
            asked = time.perf_counter()
            loaded = next(batches, None)
            self._waited = time.perf_counter() - asked
            if loaded is None:
                return
            yield loaded

    def update(self, step: int, metrics: Sums, loaded: Loaded) -> None:
        """Takes the metrics of update `step` on `loaded`, just dispatched, and writes those of the one before."""
        self._write_pending()
        of_batch = {"data_wait_seconds": self._waited, "padding": loaded.padding}
        self._pending = step, metrics, loaded.tokens, of_batch

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the result of an evaluation after `step` updates."""
        self._writer.write(step, "eval", values)
        means = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._progress.note(f"evaluation after step {step}: {means}")

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Writes the metrics of the last update first, and leaves what happens inside out of the next one's seconds."""
        self._write_pending()
        yield
        self._clock = time.perf_counter()

    def flush(self) -> None:
        """Returns when everything written is on disk."""
        self._writer.flush()

    def _write_pending(self) -> None:
        if self._pending is None:
            return
        step, metrics, tokens, of_batch = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        values |= {"seconds": seconds} | self._throughput.rates(tokens, seconds) | of_batch
        self._writer.write(step, "train", values)
        self._progress.update(step, values)


def fit(
    state: TrainState,
    config: TrainingConfig,
    *,
    train_step: TrainStep,
    batches: Callable[[int, int], Iterator[Loaded]],
    evaluate: Callable[[PyTree], Mapping[str, float]],
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop: StopSignal,
) -> TrainState:
    """Trains from `state.step`, whose memory it takes over, to `config.steps`; if that is reached it writes nothing.

    `batches(start, stop)` gives the placed batches of updates start, ..., stop - 1; `evaluate(params)` gives means.

    Raises:
        Interrupted: `stop` asked for it; this step's evaluation, if due, is written and the state is being saved.
        ValueError: `batches` gave fewer or more than it was asked for.
    """
    start = int(state.step)
    if start >= config.steps:
        return state
    if start == 0:
        _evaluate(0, state, evaluate, reporter)
    numbers, arriving = range(start + 1, config.steps + 1), reporter.waiting(batches(start, config.steps))
    for step, loaded in zip(numbers, arriving, strict=True):
        state, metrics = train_step(state, loaded.batch)
        reporter.update(step, metrics, loaded)
        last = step == config.steps
        if last or step % config.eval_every == 0:
            _evaluate(step, state, evaluate, reporter)
        stopping = stop.requested and not last
        if last or stopping or step % config.save_every == 0:
            _save(step, state, checkpoints, reporter)
        if stopping:
            raise Interrupted(step)
    return state


def _evaluate(
    step: int, state: TrainState, evaluate: Callable[[PyTree], Mapping[str, float]], reporter: Reporter
) -> None:
    with reporter.pause():
        reporter.evaluation(step, evaluate(state.params))


def _save(step: int, state: TrainState, checkpoints: Checkpoints, reporter: Reporter) -> None:
    with reporter.pause():
        reporter.flush()
        checkpoints.save(step, state)
