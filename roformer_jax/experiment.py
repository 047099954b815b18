"""An experiment is the rooms' configs composed; running one is the same few steps for every task."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jax
from jax.sharding import Mesh

from roformer_jax import __version__
from roformer_jax.distributed import agreed, check_same_everywhere, on_first_process
from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.hardware import chip_of
from roformer_jax.models import Head, RoFormerConfig
from roformer_jax.run_folder import (
    CHECKPOINTS,
    PROFILE,
    RESULTS,
    as_json,
    check_data,
    check_folder,
    flatten,
    locked,
    open_folder,
    shaping,
    write_json,
)
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings, place_batch, share_of_rows
from roformer_jax.tasks.task import Problem, Task
from roformer_jax.training.checkpoint import Checkpoints
from roformer_jax.training.compile_ahead import compiled_ahead
from roformer_jax.training.compile_cache import compile_cache
from roformer_jax.training.loop import Reporter, TrainingConfig, fit
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.profile import profiled
from roformer_jax.training.progress import Progress
from roformer_jax.training.signals import StopSignal
from roformer_jax.training.state import TrainState, abstract, create_state
from roformer_jax.training.step import TrainStep
from roformer_jax.training.throughput import Loaded, Throughput, count_tokens
from roformer_jax.training.writer import MetricsWriter, read_metrics
from roformer_jax.typing import PyTree
from roformer_jax.update import Update, make_update
from roformer_jax.warm_start import InitPositions, architecture_of, start_from

COMPILED = "compiled"  # folder of the cache for compiled programs
INITIALISATION, TRAINING = 0, 1  # what a run's seed is folded with, for each use of it


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What every experiment has; its kinds say how the task is prepared."""

    run_dir: str
    """Folder of the run: config, tokenizer, checkpoints, metrics, results. The same command continues what it finds."""
    model: RoFormerConfig = field(default_factory=RoFormerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    init_from: str | None = None
    """A run or a Hugging Face checkpoint (its folder, or package:NAME/FOLDER) to start from: its encoder's weights, its
    architecture and its tokenizer."""
    init_positions: InitPositions = "keep"
    """Position encoding in the place of that of init_from, whose other weights are taken; keep takes its own."""
    seed: int = 0
    """Seed of the initialisation, the order of the data, the masks and dropout."""
    cache_dir: str = "cache"
    """Folder of tokenised, packed data, made anew when anything that shapes it changes, and of compiled programs."""

    @property
    def head(self) -> Head:
        """What the model of this kind of experiment ends in."""
        raise NotImplementedError

    def __post_init__(self):
        check_types(self)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed = {self.seed} must lie in [0, 2^32)")
        if self.training.steps is not None:
            make_schedule(self.optimizer, self.training.steps)  # refuses a warm-up longer than the run

    def problem(self) -> Problem:
        """What an update computes, as far as this config says it: nothing is read."""
        raise NotImplementedError

    @property
    def problem_is_exact(self) -> bool:
        """Whether `problem` is that of the task, the same object, whatever the data is."""
        return True

    def prepare(self, mesh: Mesh) -> Task:
        """Read and check all input and make the task; nothing is written but the cache."""
        raise NotImplementedError

    def resolved(self) -> "Experiment":
        """This experiment with the architecture of what it starts from."""
        if self.init_from is None:
            if self.init_positions != "keep":
                raise InputError(
                    f"init_positions = {self.init_positions} replaces the positions of init_from, which is not set: "
                    "name a run or a checkpoint, e.g. --init-from path/to/bert"
                )
            return self
        return dataclasses.replace(self, model=architecture_of(self.init_from, self.model, self.init_positions))

    def run(self) -> dict[str, float]:
        """Train, or continue where the run stands; return the metrics of the last evaluation, on the first process.

        Raises:
          InputError: bad input of any kind, before anything is compiled or written.
          NonFiniteError, DamagedError, UnsavedError: see there; what was on disk stays there.
          Interrupted: a signal stopped the run; its state is saved.
        """
        with StopSignal() as stop, contextlib.ExitStack() as opened:
            experiment = self.resolved()
            folder = Path(experiment.run_dir)
            config = as_json(experiment)
            on_first_process(lambda: check_folder(folder, config))
            mesh = make_mesh(experiment.mesh)
            opened.enter_context(jax.set_mesh(mesh))
            opened.enter_context(compile_cache(Path(experiment.cache_dir) / COMPILED))
            ahead = opened.enter_context(begun(experiment, folder, mesh))
            task = experiment.prepare(mesh)
            check_same_everywhere(shaping(config) | flatten({"mesh": config["mesh"]}) | task.fingerprint)
            on_first_process(lambda: check_data(folder, task.fingerprint))
            steps = experiment.training.num_steps(task.steps_per_epoch)
            training = dataclasses.replace(experiment.training, steps=steps)
            optimizer = make_optimizer(experiment.optimizer, training.steps, jax.eval_shape(task.model.init, _key(0)))
            params = initial_params(experiment, task, mesh)
            on_first_process(lambda: opened.enter_context(locked(folder)))
            on_first_process(lambda: open_folder(folder, config, task.fingerprint, task.tokenizer))
            checkpoints = opened.enter_context(Checkpoints(folder / CHECKPOINTS, keep=training.keep))
            state = create_state(params, optimizer)
            state = checkpoints.restore_newest(abstract(state)) or state
            print_banner(experiment, task, training, mesh, state)
            if not is_complete(folder, int(state.step), training.steps):
                train(experiment, task, training, mesh, state, ahead, checkpoints, stop)
            return finish(folder) if jax.process_index() == 0 else {}


def _key(seed: int) -> jax.Array:
    return jax.random.key(seed)


def initial_params(experiment: Experiment, task: Task, mesh: Mesh) -> PyTree:
    """Random parameters, born sharded; those of `init_from` in their place where it has them."""
    shapes = jax.eval_shape(task.model.init, _key(0))
    key = jax.random.fold_in(_key(experiment.seed), INITIALISATION)
    shardings = parameter_shardings(mesh, shapes, task.model.axes)
    params = jax.jit(task.model.init, out_shardings=shardings)(key)
    if experiment.init_from is None:
        return params
    params, report = start_from(experiment.init_from, type(experiment).__name__, experiment.head, params)
    print(report)
    return params


def begun(experiment: Experiment, folder: Path, mesh: Mesh) -> contextlib.AbstractContextManager[TrainStep | None]:
    """The update, which is being compiled while the data is prepared; None where the config does not say all of it.

    None, too, where there are results already: then there will be no update.
    """
    if not agreed(not (folder / RESULTS).exists()):
        return contextlib.nullcontext()
    if not experiment.problem_is_exact or experiment.training.steps is None:
        return contextlib.nullcontext()
    return compiling(experiment, experiment.problem(), experiment.training.steps, mesh)


def step_of(
    experiment: Experiment, task: Task, training: TrainingConfig, mesh: Mesh, ahead: TrainStep | None
) -> contextlib.AbstractContextManager[TrainStep]:
    """The update of a task: the one that was begun, unless what was prepared turned out to be another problem."""
    if ahead is not None and task.problem is experiment.problem():
        return contextlib.nullcontext(ahead)
    return compiling(experiment, task.problem, training.steps, mesh)


def compiling(
    experiment: Experiment, problem: Problem, steps: int, mesh: Mesh
) -> contextlib.AbstractContextManager[TrainStep]:
    """The update of a problem, compiled by a thread from now on."""

    def make() -> Update:
        key = jax.random.fold_in(_key(experiment.seed), TRAINING)
        return make_update(problem, experiment.optimizer, steps, mesh, key, experiment.training.spike_sigmas)

    return compiled_ahead(make)


def train(
    experiment: Experiment,
    task: Task,
    training: TrainingConfig,
    mesh: Mesh,
    state: TrainState,
    ahead: TrainStep | None,
    checkpoints: Checkpoints,
    stop: StopSignal,
) -> None:
    """Run the loop from `state` to the end; `ahead` is the update that was `begun`."""
    start = int(state.step)
    _, shares = share_of_rows(mesh)

    def batches(start: int, stop: int) -> Iterator[Loaded]:
        for batch in task.batches.iterate(start, stop):
            yield Loaded(place_batch(batch, mesh), *count_tokens(batch, shares))

    with (
        MetricsWriter(experiment.run_dir, start_step=start) as writer,
        Progress(training.steps, start=start) as progress,
        step_of(experiment, task, training, mesh, ahead) as train_step,
        profiled(train_step, training.profile, Path(experiment.run_dir) / PROFILE, start=start) as train_step,
    ):
        fit(
            state,
            training,
            train_step=train_step,
            batches=batches,
            evaluate=task.evaluate,
            evaluate_first=experiment.init_from is not None,
            checkpoints=checkpoints,
            reporter=Reporter(
                writer,
                progress,
                throughput_of(experiment, task, mesh),
                rows_of=task.batches.rows_of,
                max_skipped=training.max_skipped,
            ),
            stop=stop,
        )


def is_complete(folder: Path, step: int, steps: int) -> bool:
    """Whether a run whose newest checkpoint is that of `step` has made all its updates, and its last evaluation."""

    def evaluated() -> bool:
        return any(row["kind"] == "eval" and row["step"] == steps for row in read_metrics(folder))

    return step >= steps and agreed(jax.process_index() == 0 and evaluated())


def throughput_of(experiment: Experiment, task: Task, mesh: Mesh) -> Throughput:
    """The model FLOPs of a token, and the devices and their peak."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    peak = None if chip is None else chip.peak(experiment.model.dtype)
    return Throughput(task.problem.flops / task.problem.places, mesh.size, peak)


def finish(folder: Path) -> dict[str, float]:
    """Write and return the results: the metrics of the last evaluation."""
    rows = read_metrics(folder)
    last = [row for row in rows if row["kind"] == "eval"][-1]
    metrics = {name: value for name, value in last.items() if name not in ("step", "kind")}
    seconds = sum(row["seconds"] for row in rows if row["kind"] == "train")
    results = {"step": last["step"], "metrics": metrics, "training_seconds": round(seconds, 1), "made": made()}
    write_json(folder / RESULTS, results)
    print(f"results after {last['step']} updates ({seconds:.0f} s of training), in {folder / RESULTS}:")
    for name, value in metrics.items():
        print(f"  {name:20s} {value:.4f}")
    return metrics


def made() -> str:
    """When, and by which versions."""
    return f"{time.strftime('%Y-%m-%d')}, roformer_jax {__version__}, jax {jax.__version__}"


def mfu_of(throughput: Throughput, device: jax.Device) -> str:
    """What MFU is measured against, in words."""
    if throughput.peak is None:
        return f"not given: the peak rate of {device.device_kind} is not known here"
    return f"model FLOPs / (seconds x devices x {throughput.peak / 1e12:.0f} TFLOP/s), padding not counted"


def print_banner(experiment: Experiment, task: Task, training: TrainingConfig, mesh: Mesh, state: TrainState) -> None:
    """Say what runs, on what, where it is written, and from which step."""
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    model = experiment.model
    step = int(state.step)
    stand = "new" if step == 0 else "complete" if step >= training.steps else f"continues after update {step:,}"
    device = jax.devices()[0]
    facts = {
        "versions": f"roformer_jax {__version__}, jax {jax.__version__}",
        "devices": f"{jax.device_count()} x {device.device_kind} ({dict(mesh.shape)}), "
        f"process {jax.process_index()} of {jax.process_count()}",
        "model": f"{model.num_hidden_layers} layers x {model.hidden_size}, {model.num_attention_heads} heads, "
        f"{model.position_encoding} positions, {count:,} parameters",
        **task.summary,
        "MFU": mfu_of(throughput_of(experiment, task, mesh), device),
        "tokens per step": f"{task.tokens_per_step:,.0f}",
        "updates": f"{training.steps:,} ({training.steps / task.steps_per_epoch:.1f} epochs)",
        "run": f"{experiment.run_dir}: {stand}",
    }
    print("\n".join(f"{name:18s} {value}" for name, value in facts.items()), flush=True)
