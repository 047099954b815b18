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

from roformer_jax.distributed import agreed
from roformer_jax.errors import InputError, Interrupted, NonFiniteError
from roformer_jax.fields import check_types
from roformer_jax.training.checkpoint import Checkpoints
from roformer_jax.training.profile import parse_updates
from roformer_jax.training.progress import Progress
from roformer_jax.training.signals import StopSignal
from roformer_jax.training.state import TrainState
from roformer_jax.training.step import Between, Sums, TrainStep
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
    """Updates between evaluations; there is always one after the last, and one before the first with init_from."""
    save_every: int = 100
    """Updates between checkpoints; there is always one after the last update."""
    keep: int = 2
    """How many of the newest checkpoints stay on disk."""
    max_skipped: int = 10
    """An update whose loss or gradient is not finite changes nothing; after so many in a row the run ends, code 3."""
    spike_sigmas: float = math.inf
    """An update is skipped, too, where its loss is so many standard deviations above the mean of the last 128."""
    profile: str | None = None
    """FIRST:LAST, e.g. 10:15: the updates to trace, both included, into the run's folder profile/ (for xprof)."""

    def __post_init__(self):
        check_types(self, "training.")
        for field in ("batch_size", "microbatches", "eval_every", "save_every", "keep", "max_skipped"):
            if getattr(self, field) < 1:
                raise InputError(f"training.{field} must be 1 or more, but is {getattr(self, field)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"training.steps must be 1 or more, but is {self.steps}")
        if not self.spike_sigmas > 0:
            raise InputError(f"training.spike_sigmas must be positive, but is {self.spike_sigmas}")
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


class Reporter:
    """Where metrics go. Those of an update are read one update later, so that reading never empties the device's queue.

    Args:
        writer: takes every value.
        progress: shows some.
        throughput: turns seconds into rates.
        rows_of: the numbers of the rows in the batch of an update, counted from 0: they are told where it is skipped.
        max_skipped: how many updates in a row may be skipped.
    """

    def __init__(
        self,
        writer: MetricsWriter,
        progress: Progress,
        throughput: Throughput,
        *,
        rows_of: Callable[[int], list[int]],
        max_skipped: int,
    ):
        self._writer, self._progress, self._throughput = writer, progress, throughput
        self._rows_of, self._max_skipped = rows_of, max_skipped
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

    @property
    def last_evaluation(self) -> int:
        """The last step whose evaluation was on disk when the run went on; -1 where there is none."""
        return self._writer.last_evaluation

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

    def flush(self) -> bool:
        """Whether everything written is on disk, once it is or cannot be."""
        return self._writer.flush()

    def _write_pending(self) -> None:
        if self._pending is None:
            return
        step, metrics, tokens, of_batch = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        values |= {"seconds": seconds} | self._throughput.rates(tokens, seconds) | of_batch
        in_a_row = int(values.pop("skipped_in_a_row"))
        self._writer.write(step, "train", values)
        self._progress.update(step, values)
        if in_a_row:
            self._skipped(step, values, in_a_row)

    def _skipped(self, step: int, values: Mapping[str, float], in_a_row: int) -> None:
        """Tells of an update that changed nothing.

        Raises:
            NonFiniteError: there were too many of them in a row.
        """
        rows = self._rows_of(step - 1)
        self._writer.write(step, "skipped", {"rows": rows})
        found = f"loss {values['loss']:.4g}, gradient norm {values['grad_norm']:.4g}"
        self._progress.note(f"update {step} is skipped, nothing was changed: {found}; rows of its batch: {rows}")
        if in_a_row >= self._max_skipped:
            raise NonFiniteError(
                f"the last {in_a_row} updates, to step {step}, were skipped because the loss or the gradient was not "
                f"finite or a spike ({found}; training.max_skipped = {self._max_skipped}); the parameters are those of "
                f"step {step - in_a_row}: look at the rows named above, or start anew with a lower "
                "optimizer.learning_rate"
            )


def fit(
    state: TrainState,
    config: TrainingConfig,
    *,
    train_step: TrainStep,
    batches: Callable[[int, int], Iterator[Loaded]],
    evaluate: Callable[[PyTree, Between], Mapping[str, float]],
    evaluate_first: bool,
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop: StopSignal,
) -> TrainState:
    """Trains from `state.step`, whose memory it takes over, to `config.steps`; if that is reached it writes nothing.

    `batches(start, stop)` gives the placed batches of updates start, ..., stop - 1; `evaluate(params, between)` gives
    means; where `evaluate_first`, before the first update, too: of random parameters, that of update 1 says as much.
    An evaluation that a signal cut short is made up for when the run goes on.

    Raises:
        Interrupted: `stop` asked for it; the state is saved.
        NonFiniteError: `config.max_skipped` updates in a row were skipped, or the state is not finite.
        UnsavedError: the last state could not be written.
        ValueError: `batches` gave fewer or more than it was asked for.
    """

    def due(step: int) -> bool:
        return step == config.steps or (step % config.eval_every == 0 and (step > 0 or evaluate_first))

    start = int(state.step)
    if due(start) and not agreed(reporter.last_evaluation == start):
        _evaluate(start, state, evaluate, reporter, stop)
    if start >= config.steps:
        return state
    numbers, arriving = range(start + 1, config.steps + 1), reporter.waiting(batches(start, config.steps))
    for step, loaded in zip(numbers, arriving, strict=True):
        state, metrics = train_step(state, loaded.batch)
        if step == start + 1:
            stop.begin()  # not before: the first call waits for the compiler, which may take minutes
        reporter.update(step, metrics, loaded)
        checkpoints.poll()
        stopping = stop.requested()
        if due(step) and not stopping:
            try:
                _evaluate(step, state, evaluate, reporter, stop)
            except Interrupted:
                stopping = True
        if stopping or step == config.steps:
            _save(step, state, checkpoints.save_last, reporter)
        elif step % config.save_every == 0:
            _save(step, state, checkpoints.save, reporter)
        if stopping:
            raise Interrupted(step)
    return state


def _evaluate(
    step: int,
    state: TrainState,
    evaluate: Callable[[PyTree, Between], Mapping[str, float]],
    reporter: Reporter,
    stop: StopSignal,
) -> None:
    with reporter.pause():
        reporter.evaluation(step, evaluate(state.params, stop.check))


def _save(step: int, state: TrainState, save: Callable[..., None], reporter: Reporter) -> None:
    with reporter.pause():
        save(step, state, after=reporter.flush)
