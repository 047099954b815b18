"""The fair table: GLUE for several position encodings that start from one checkpoint, with the same data and budget.

A cell is one fine-tuning: a model, a task, a learning rate, a seed. Models are the checkpoint as it is, and the
checkpoint after the same masked-LM adaptation with each position encoding, its own among them: so adaptation is not
what is compared.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from roformer_jax.cells import CellTable
from roformer_jax.data.glue import GLUE
from roformer_jax.distributed import on_first_process
from roformer_jax.errors import InputError
from roformer_jax.experiment import made
from roformer_jax.fields import check_types
from roformer_jax.finetuning import Glue, GlueName
from roformer_jax.pretraining import Pretraining
from roformer_jax.report.glue_table import Made, draw_table, table_lines
from roformer_jax.run_folder import read_json, write_json
from roformer_jax.training.writer import read_metrics
from roformer_jax.warm_start import InitPositions

ORIGINAL = "original"  # the model that is fine-tuned from the checkpoint as it is
PYTORCH = "pytorch"  # the same fine-tunings by transformers, which `benchmarks.glue_baseline` makes
SMALL_EPOCHS, LARGE_EPOCHS = 3.0, 1.0  # as the paper, except that it trains three epochs on large tasks too


class Cell(NamedTuple):
    """One fine-tuning."""

    model: str
    task: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Its file under the folder of cells, without the suffix."""
        return f"{self.model}/{self.task}-{self.learning_rate:g}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class GlueTable(CellTable):
    """Every task x model x seed, the learning rate chosen for each model and task on the first seed."""

    name: str = "glue"
    command: str = "python -m roformer_jax table"
    adaptation: Pretraining
    """The masked-LM adaptation of every encoding; its init_from is the checkpoint, its run_dir the folder of all."""
    finetuning: Glue
    """What every cell shares: the folder of GLUE, batch size, schedule."""
    encodings: tuple[InitPositions, ...] = ("rope", "learned")
    """Position encodings of the adapted models; the first is compared with the second."""
    small_tasks: tuple[GlueName, ...] = ("mrpc", "rte", "stsb", "cola")
    """Tasks with all seeds, on whose first seed the learning rate is chosen; three epochs, as the paper."""
    large_tasks: tuple[GlueName, ...] = ("sst2", "qnli", "qqp", "mnli")
    """Tasks with the first seed only, one epoch, at the learning rate that was best for the model on the small ones."""
    learning_rates: tuple[float, ...] = (5e-5, 4e-5, 3e-5, 2e-5)
    """The paper's grid, in the order in which it is tried."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the head's initialisation, the order of the data and dropout."""

    def __post_init__(self):
        check_types(self)
        if self.adaptation.init_from is None:
            raise InputError("adaptation.init_from is not set: name the checkpoint that all models start from")
        if self.adaptation.training.steps is None:
            raise InputError("adaptation.training.steps is not set: say how many updates every encoding gets")
        for field in ("encodings", "learning_rates", "seeds"):
            values = getattr(self, field)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{field} must be different values, at least one, got {values}")
        if len(self.encodings) < 2:
            raise InputError(f"encodings = {self.encodings}: at least two are needed, for they are compared")
        if "keep" in self.encodings:
            raise InputError(f"encodings = {self.encodings}: name the position encodings, one of them the checkpoint's")
        tasks = self.small_tasks + self.large_tasks
        if not self.small_tasks or len(set(tasks)) != len(tasks):
            raise InputError(f"a task stands once, and small_tasks are needed to choose learning rates, got {tasks}")

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of the table."""
        return (ORIGINAL, *self.encodings)

    def every(self) -> Iterator[Cell]:
        """Every model, task, learning rate and seed."""
        tasks = self.small_tasks + self.large_tasks
        return (Cell(*four) for four in itertools.product(self.models, tasks, self.learning_rates, self.seeds))

    def wanted(self) -> Iterator[Cell]:
        """All cells in the order in which they are made; those of later seeds are known once learning rates are."""
        first, *others = self.seeds
        for rate in self.learning_rates:
            for task in self.small_tasks:
                yield from (Cell(model, task, rate, first) for model in self.models)
        for seed in others:
            for task in self.small_tasks:
                yield from (Cell(model, task, self.best_rate(model, (task,)), seed) for model in self.models)
        for task in self.large_tasks:
            yield from (Cell(model, task, self.best_rate(model, self.small_tasks), first) for model in self.models)

    def best_rate(self, model: str, tasks: tuple[str, ...]) -> float:
        """The learning rate with the best mean score on these tasks, of the first seed."""

        def mean(rate: float) -> float:
            return statistics.mean(self.made(Cell(model, task, rate, self.seeds[0])).score for task in tasks)

        def is_tried(rate: float) -> bool:
            return all(self.file_of(Cell(model, task, rate, self.seeds[0]).name).exists() for task in tasks)

        tried = filter(is_tried, self.learning_rates)
        return max(tried, key=mean, default=self.learning_rates[0])

    def prepare(self, cell: Cell) -> None:
        """Make the adaptation that a cell starts from, if need be."""
        if cell.model != ORIGINAL:
            self.adapt(cell.model)

    def content_of(self, cell: Cell, experiment: Glue, metrics: Mapping[str, float]) -> dict[str, Any]:
        """The cell, its score and what it was trained and measured on."""
        splits, task = experiment.splits(), GLUE[cell.task]
        main = [value for name, value in metrics.items() if name.split("/")[-1] == task.metrics[-1]]
        score = statistics.mean(main)
        print(f"{cell.name}: {task.metrics[-1]} {score:.4f}", flush=True)
        return cell._asdict() | {
            "metric": task.metrics[-1],
            "score": score,
            "epochs": experiment.training.epochs,
            "training_examples": len(splits.train.texts),
            "evaluation_examples": {name: len(examples.texts) for name, examples in splits.evaluation.items()},
        }

    def made(self, cell: Cell) -> Made | None:
        """A finished cell for the page; None if it is not finished."""
        content = self.read(cell)
        return content and shown(cell, content)

    def independent(self, cell: Cell) -> Made | None:
        """The run of a cell of the checkpoint as it is in PyTorch; None if it is not finished."""
        theirs = cell._replace(model=PYTORCH)
        file = self.file_of(theirs.name)
        return shown(theirs, read_json(file)) if file.exists() else None

    def adapt(self, encoding: str) -> None:
        """Run the masked-LM adaptation of an encoding, or what is left of it, and write its losses beside the cells."""
        experiment = self.adapted(encoding)
        file = self.adaptation_file(encoding)
        if (Path(experiment.run_dir) / "results.json").exists() and file.exists():
            return
        print(f"\n=== adaptation: {encoding} ===", flush=True)
        experiment.run()

        def write() -> None:
            rows = read_metrics(experiment.run_dir)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                file,
                {
                    "encoding": encoding,
                    "updates": rows[-1]["step"],
                    "minutes": round(sum(row["seconds"] for row in rows if row["kind"] == "train") / 60, 1),
                    "held_out_loss": {str(row["step"]): row["loss"] for row in rows if row["kind"] == "eval"},
                    "made": made(),
                },
            )

        on_first_process(write)

    def adapted(self, encoding: str) -> Pretraining:
        """The adaptation with one position encoding; nothing else differs."""
        folder = f"{self.adaptation.run_dir}/{encoding}"
        return dataclasses.replace(self.adaptation, init_positions=encoding, run_dir=folder)

    def experiment_of(self, cell: Cell) -> Glue:
        """The fine-tuning of a cell."""
        base = self.finetuning
        original, small = cell.model == ORIGINAL, cell.task in self.small_tasks
        return dataclasses.replace(
            base,
            task=cell.task,
            init_from=self.adaptation.init_from if original else self.adapted(cell.model).run_dir,
            run_dir=f"{self.adaptation.run_dir}/cells/{cell.name}",
            seed=cell.seed,
            optimizer=dataclasses.replace(base.optimizer, learning_rate=cell.learning_rate),
            training=dataclasses.replace(base.training, epochs=SMALL_EPOCHS if small else LARGE_EPOCHS),
        )

    def adaptation_file(self, encoding: str) -> Path:
        """Where the losses of an adaptation are."""
        return self.file_of(f"{encoding}/adaptation")

    def section(self) -> list[str]:
        """A figure, a table of means over seeds, which encoding won where, and what made them."""
        tasks = self.small_tasks + self.large_tasks
        best = {
            (model, task): [made for seed in self.seeds if (made := self.made(self.chosen(model, task, seed)))]
            for model, task in itertools.product(self.models, tasks)
        }
        independent = {
            task: [made for seed in self.seeds if (made := self.independent(self.chosen(ORIGINAL, task, seed)))]
            for task in tasks
        }
        figure = self.folder.with_suffix(".svg")
        drawn = draw_table(figure, best, self.models, tasks)
        return table_lines(
            best, independent, models=self.models, whole={task: GLUE[task].training_examples for task in tasks},
            command=self.command, facts=self.facts(), link_to=self.link_to,
            figure=figure.relative_to(Path(self.results).parent) if drawn else None,
        )  # fmt: skip

    def facts(self) -> str:
        """What all cells share, and what the adaptations reached."""
        training, rates = self.finetuning.training, ", ".join(f"{rate:g}" for rate in self.learning_rates)
        reached = [
            f"{encoding} {list(read_json(file)['held_out_loss'].values())[-1]:.3f} nats per token"
            for encoding in self.encodings
            if (file := self.adaptation_file(encoding)).exists()
        ]
        return (
            f"All start from `{self.adaptation.init_from}` (column {ORIGINAL}: as it is); the others after the same "
            f"{self.adaptation.training.steps:,} updates of masked LM with the encoding that names them"
            + (f", which end at {', '.join(reached)}" if reached else "")
            + f". Fine-tuning: {training.batch_size} examples an update, {SMALL_EPOCHS:g} epochs "
            f"({', '.join(self.small_tasks)}) or {LARGE_EPOCHS:g} ({', '.join(self.large_tasks)}), learning rates "
            f"{rates}: the best of seed {self.seeds[0]} for each model and small task, and for the model's mean over "
            "the small tasks on the large ones."
        )

    def chosen(self, model: str, task: str, seed: int) -> Cell:
        """The cell that stands in the table for a model, task and seed."""
        tasks = (task,) if task in self.small_tasks else self.small_tasks
        return Cell(model, task, self.best_rate(model, tasks), seed)


def shown(cell: Cell, content: Mapping[str, Any]) -> Made:
    """What the page says of a finished cell."""
    return Made(cell.name, **{name: content[name] for name in Made._fields[1:]})
