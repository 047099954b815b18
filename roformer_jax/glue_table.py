"""The fair table: GLUE for several position encodings that start from one checkpoint, with the same data and budget.

A cell is one fine-tuning: a model, a task, a learning rate, a seed. A finished cell is a small JSON file, and is not
made again; so the table grows run by run, and is committed with them. Models are the checkpoint as it is, and the
checkpoint after the same masked-LM adaptation with each position encoding, its own among them: so adaptation is not
what is compared.
"""

import dataclasses
import itertools
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from roformer_jax import __version__
from roformer_jax.cells import Cell, Cells, write_file
from roformer_jax.comparison import with_section
from roformer_jax.data.glue import GLUE
from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.finetuning import Glue, GlueName
from roformer_jax.pretraining import Pretraining
from roformer_jax.report.glue_table import Made, draw_table, table_lines
from roformer_jax.run_folder import read_json
from roformer_jax.training.writer import read_metrics
from roformer_jax.warm_start import InitPositions

ORIGINAL = "original"  # the model that is fine-tuned from the checkpoint as it is
SECTION = "glue"  # of the page
SMALL_EPOCHS, LARGE_EPOCHS = 3.0, 1.0  # as the paper, except that it trains three epochs on large tasks too


@dataclass(frozen=True, kw_only=True)
class GlueTable:
    """Every task x model x seed, the learning rate chosen for each model and task on the first seed."""

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
    cells: str = "docs/results/glue"
    """Folder of the finished cells."""
    results: str = "docs/results.md"
    """The page whose section is written; its figure lies in the page's folder."""
    command: str = "python -m roformer_jax table"
    """What makes the table, for the page."""
    minutes: float = math.inf
    """Begin no other cell after so many; the same command goes on from there."""
    cell: str | None = None
    """Make this one again, e.g. rope/mrpc-5e-05-0, and nothing else; none makes all that are missing."""

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
    def store(self) -> Cells:
        """The finished cells."""
        return Cells(Path(self.cells))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order of the table."""
        return (ORIGINAL, *self.encodings)

    def run(self) -> None:
        """Make the cells that are missing, one after another, and write the page after each.

        Raises:
          RunError: as every experiment; cells that are finished stay.
        """
        if self.cell is not None:
            print(line_of(self.make(self.cell_of(self.cell))))
            return
        began = time.monotonic()
        self.write_page()
        while (cell := self.next_cell()) is not None:
            if time.monotonic() - began > 60 * self.minutes:
                print(f"{self.minutes:g} minutes are over: the same command goes on with {cell.name}")
                return
            print(line_of(self.make(cell)), flush=True)
            self.write_page()

    def next_cell(self) -> Cell | None:
        """The first cell that is not made; None if all are."""
        return next((cell for cell in self.wanted() if not self.store.has(cell)), None)

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
            return statistics.mean(self.store.read(Cell(model, task, rate, self.seeds[0])).score for task in tasks)

        def is_tried(rate: float) -> bool:
            return all(self.store.has(Cell(model, task, rate, self.seeds[0])) for task in tasks)

        tried = filter(is_tried, self.learning_rates)
        return max(tried, key=mean, default=self.learning_rates[0])

    def make(self, cell: Cell) -> Made:
        """Fine-tune, write the cell's file, and remove the run; the adaptation it starts from is made if need be."""
        if cell.model != ORIGINAL:
            self.adapt(cell.model)
        experiment = self.experiment_of(cell)
        print(f"\n=== {cell.name} ===", flush=True)
        metrics = experiment.run()
        rows = read_metrics(experiment.run_dir)
        seconds = sum(row["seconds"] for row in rows if row["kind"] == "train")
        splits = experiment.splits()
        task = GLUE[cell.task]
        main = [value for name, value in metrics.items() if name.split("/")[-1] == task.metrics[-1]]
        content = cell._asdict() | {
            "metric": task.metrics[-1],
            "score": statistics.mean(main),
            "metrics": metrics,
            "updates": rows[-1]["step"],
            "epochs": experiment.training.epochs,
            "training_examples": len(splits.train.texts),
            "evaluation_examples": {name: len(examples.texts) for name, examples in splits.evaluation.items()},
            "seconds": round(seconds, 1),
            "made": f"{time.strftime('%Y-%m-%d')}, roformer_jax {__version__}, jax {jax.__version__}",
        }
        self.store.write(cell, content)
        shutil.rmtree(experiment.run_dir)
        return self.store.read(cell)

    def adapt(self, encoding: str) -> None:
        """Run the masked-LM adaptation of an encoding, or what is left of it, and write its losses beside the cells."""
        experiment = self.adapted(encoding)
        file = self.adaptation_file(encoding)
        if (Path(experiment.run_dir) / "results.json").exists() and file.exists():
            return
        print(f"\n=== adaptation: {encoding} ===", flush=True)
        experiment.run()
        rows = read_metrics(experiment.run_dir)
        write_file(
            file,
            {
                "encoding": encoding,
                "updates": rows[-1]["step"],
                "minutes": round(sum(row["seconds"] for row in rows if row["kind"] == "train") / 60, 1),
                "held_out_loss": {str(row["step"]): row["loss"] for row in rows if row["kind"] == "eval"},
                "made": f"{time.strftime('%Y-%m-%d')}, roformer_jax {__version__}, jax {jax.__version__}",
            },
        )

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

    def cell_of(self, name: str) -> Cell:
        """The cell of that name.

        Raises:
          InputError: the table has none.
        """
        tasks = self.small_tasks + self.large_tasks
        cells = [Cell(*four) for four in itertools.product(self.models, tasks, self.learning_rates, self.seeds)]
        for cell in cells:
            if cell.name == name:
                return cell
        raise InputError(f"cell = {name!r} is none of the table's; they are called like {cells[0].name}")

    def adaptation_file(self, encoding: str) -> Path:
        """Where the losses of an adaptation are."""
        return Path(self.cells) / encoding / "adaptation.json"

    def write_page(self) -> None:
        """Write the section of the page, and its figure, from the cells that are finished."""
        page = Path(self.results)
        tasks = self.small_tasks + self.large_tasks
        best = {
            (model, task): [made for seed in self.seeds if (made := self.store.read(self.chosen(model, task, seed)))]
            for model, task in itertools.product(self.models, tasks)
        }
        missing = [cell.name for cell in self.wanted() if not self.store.has(cell)]
        figure = page.parent / page.stem / f"{SECTION}.svg"
        drawn = draw_table(figure, best, self.models, tasks)
        lines = table_lines(
            best, missing, models=self.models, whole={task: GLUE[task].training_examples for task in tasks},
            command=self.command, facts=self.facts(), figure=figure.relative_to(page.parent) if drawn else None,
        )  # fmt: skip
        text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(with_section(text, SECTION, lines), encoding="utf-8")

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


def line_of(made: Made) -> str:
    """A finished cell in a line."""
    return (
        f"{made.model} {made.task}, learning rate {made.learning_rate:g}, seed {made.seed}: "
        f"{made.metric} {made.score:.4f} after {made.seconds / 60:.1f} minutes"
    )
