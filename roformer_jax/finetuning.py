"""The fine-tuning experiments: classification or regression of any table, the nine tasks of GLUE, similar cases."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from jax.sharding import Mesh

from roformer_jax.data.examples import Examples, examples_from_table, label_set
from roformer_jax.data.glue import GLUE, available_eval_splits, read_glue
from roformer_jax.data.sources import Table, deduplicate, read_table, rows_of, split_by_content
from roformer_jax.data.triples import pairs_of, read_triples, split_triples
from roformer_jax.data.vocabulary import tokenizer_for
from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.fields import check_types
from roformer_jax.models import Head
from roformer_jax.tasks.classification import Splits, classification_problem, classification_task
from roformer_jax.tasks.task import Problem, Task

GlueName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


@dataclass(frozen=True, kw_only=True)
class FineTuning(Experiment):
    """What classification and regression have in common."""

    length: int = 128
    """Tokens per packed row, and the longest example; longer ones are truncated, the longer text of a pair first."""
    tokenizer: str | None = None
    """vocab.txt, tokenizer.json or a folder that holds one; none takes that of init_from, or trains a WordPiece
    vocabulary of model.vocab_size on the training texts."""
    lowercase: bool = True
    """Whether a vocabulary trained here folds case and accents."""

    @property
    def head(self) -> Head:
        """The head of the model."""
        return "classifier"

    def __post_init__(self):
        super().__post_init__()
        if self.length < 8:
            raise InputError(f"length = {self.length}: a row needs at least 8 tokens")

    def splits(self) -> Splits:
        """The labelled examples, read and checked."""
        raise NotImplementedError

    def classes(self) -> int:
        """How many classes there are, as far as the config says; 0 for regression."""
        raise NotImplementedError

    def problem(self) -> Problem:
        """Classification or regression at its largest: as if every example filled a row of its own.

        How many rows the examples of a batch take is known when they are packed; they never take more.
        """
        training = self.training
        return classification_problem(
            self.model,
            length=self.length,
            classes=self.classes(),
            rows=training.batch_size,
            microbatches=training.microbatches,
            examples=1,
        )

    @property
    def problem_is_exact(self) -> bool:
        """It is not: the data says how many rows and examples a batch has."""
        return False

    def prepare(self, mesh: Mesh) -> Task:
        """Tokenise and pack the examples, and make the classification task."""
        self.model.check_length(self.length)
        self.model.check_mesh(mesh.shape, self.length)
        splits = self.splits()
        tokenizer = tokenizer_for(
            self.tokenizer or self.init_from,
            splits.train.texts + (splits.train.pairs or []),
            vocab_size=self.model.vocab_size,
            lowercase=self.lowercase,
            cache_dir=self.cache_dir,
        )
        return classification_task(
            splits,
            self.model,
            tokenizer,
            mesh=mesh,
            length=self.length,
            batch_size=self.training.batch_size,
            microbatches=self.training.microbatches,
            seed=self.seed,
            cache_dir=self.cache_dir,
        )


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """A table of labelled texts."""

    path: str = ""
    """CSV, TSV or JSONL with named columns, a folder of class folders, package:NAME/FOLDER, or tfds:NAME:SPLIT."""
    validation_path: str | None = None
    """A second table to evaluate on; none holds out part of the first, after dropping exact duplicates."""
    holdout: float = 0.1
    """Share of the examples held out where there is no validation_path, chosen by the hash of their text."""
    text_columns: tuple[str, ...] = ("text",)
    """One text column, or two for pairs."""
    label_column: str = "label"
    """Column of the class, or of the score in a regression."""
    regression: bool = False
    """Whether the labels are scores to predict instead of classes."""
    unlabelled: str | None = None
    """What stands for the label in rows that have none (in SNLI and OCNLI a hyphen); they are left out."""
    encoding: str = "utf-8"
    """Character encoding of the files."""

    def __post_init__(self):
        check_types(self, "data.")
        if len(self.text_columns) not in (1, 2):
            raise InputError(f"data.text_columns = {self.text_columns}: name one column, or two for pairs")
        if not 0 < self.holdout < 1:
            raise InputError(f"data.holdout = {self.holdout} must lie strictly between 0 and 1")

    def read(self) -> list[Table]:
        """The table, and the second where there is one: text and label columns of the rows that have a label."""
        paths = [path for path in (self.path, self.validation_path) if path]
        tables = [read_table(path, (*self.text_columns, self.label_column), encoding=self.encoding) for path in paths]
        if self.unlabelled is None:
            return tables
        if not any(self.unlabelled in table.columns[self.label_column] for table in tables):
            raise InputError(
                f"{' and '.join(paths)}: data.unlabelled = {self.unlabelled!r} is the label of no row; correct it, or "
                "leave it out where every row has a label"
            )
        return [self._labelled(path, table) for path, table in zip(paths, tables, strict=True)]

    def _labelled(self, path: str, table: Table) -> Table:
        kept = [i for i, label in enumerate(table.columns[self.label_column]) if label != self.unlabelled]
        if not kept:
            raise InputError(f"{path}: data.unlabelled = {self.unlabelled!r} is the label of every row; none is left")
        return rows_of(table, kept)


@dataclass(frozen=True, kw_only=True)
class Classification(FineTuning):
    """Classification or regression of the texts, or pairs of texts, of a table."""

    data: TableConfig = field(default_factory=TableConfig)

    def classes(self) -> int:
        """Two, where the table is not read; more change the head's last layer only."""
        return 0 if self.data.regression else 2

    def splits(self) -> Splits:
        """Read the tables; the classes are the labels of the training table."""
        if not self.data.path:
            raise InputError("data.path is not set: name a table of labelled texts, e.g. --data.path my/reviews.csv")
        table, *second = self.data.read()
        names = () if self.data.regression else label_set(table, self.data.label_column)
        if not self.data.regression and len(names) < 2:
            raise InputError(
                f"{self.data.path}: every row has the label {names[0]!r}; classification needs two classes"
            )
        train, heldout = (table, *second) if second else self._split(table)
        metrics = ("pearson", "spearman") if self.data.regression else ("accuracy",)
        return Splits(self._examples(train, names), {"heldout": self._examples(heldout, names)}, names, metrics)

    def _examples(self, table: Table, names: tuple[str, ...]) -> Examples:
        return examples_from_table(table, self.data.text_columns, self.data.label_column, names or None)

    def _split(self, table: Table) -> tuple[Table, Table]:
        """Distinct rows, split by the hash of their first text."""
        columns = [table.columns[name] for name in self.data.text_columns]
        kept = deduplicate(["\x00".join(row) for row in zip(*columns, strict=True)])
        sides = split_by_content([columns[0][i] for i in kept], self.data.holdout)
        train, heldout = (rows_of(table, [kept[i] for i in side]) for side in sides)
        if not train.where or not heldout.where:
            raise InputError(
                f"{self.data.path}: {len(kept)} distinct rows and data.holdout = {self.data.holdout} leave one side "
                "empty; give more rows, another holdout, or data.validation_path"
            )
        return train, heldout


@dataclass(frozen=True, kw_only=True)
class Glue(FineTuning):
    """One of the nine GLUE tasks, evaluated on its full development set with its official metrics."""

    task: GlueName = "mrpc"
    """Which task."""
    folder: str = "data/glue"
    """GLUE in its official TSV form (the folder that holds MRPC, SST-2, ..., or a task's own), or tfds:glue."""

    def resolved(self) -> "Experiment":
        """Each task has its own folder where `run_dir` says {task}."""
        return dataclasses.replace(super().resolved(), run_dir=self.run_dir.replace("{task}", self.task))

    def classes(self) -> int:
        """Those of the task."""
        return len(GLUE[self.task].label_names)

    def splits(self) -> Splits:
        """Read the training set and every development set that is there."""
        task = GLUE[self.task]
        train = read_glue(task, self.folder, "train")
        evaluation = {
            split.removeprefix("dev_"): read_glue(task, self.folder, split)
            for split in available_eval_splits(task, self.folder)
        }
        return Splits(train, evaluation, task.label_names, task.metrics)


@dataclass(frozen=True, kw_only=True)
class TriplesConfig:
    """Triples of documents, of which B is more like A than C is."""

    path: str = ""
    """CSV, TSV or JSONL with columns A, B and C, plain or .gz."""
    validation_path: str | None = None
    """More triples to evaluate on; none holds out questions of the first."""
    holdout: float = 0.3
    """Share of the documents held out where there is no validation_path, chosen by the hash of their text."""
    encoding: str = "utf-8"
    """Character encoding of the files."""

    def __post_init__(self):
        check_types(self, "data.")
        if not 0 < self.holdout < 1:
            raise InputError(f"data.holdout = {self.holdout} must lie strictly between 0 and 1")

    @property
    def text_columns(self) -> tuple[str, str]:
        """Columns of a table of pairs to predict."""
        return "A", "B"


@dataclass(frozen=True, kw_only=True)
class SimilarCases(FineTuning):
    """Similar case matching (section 4.5): is B or C more like A? Each is read together with A, and scored."""

    length: int = 1024
    data: TriplesConfig = field(default_factory=TriplesConfig)

    def classes(self) -> int:
        """Less like A, and more."""
        return 2

    def splits(self) -> Splits:
        """Read the triples, and make two pairs of each."""
        if not self.data.path:
            raise InputError("data.path is not set: name a table of triples, e.g. --data.path my/triples.jsonl")
        triples = read_triples(self.data.path, self.data.encoding)
        if self.data.validation_path:
            heldout = read_triples(self.data.validation_path, self.data.encoding)
            sides = (triples, list(range(len(triples.where)))), (heldout, list(range(len(heldout.where))))
        else:
            sides = tuple((triples, indices) for indices in split_triples(triples, self.data.holdout))
        if not all(indices for _, indices in sides):
            raise InputError(
                f"{self.data.path}: {len(triples.where)} triples and data.holdout = {self.data.holdout} leave one side "
                "empty; give more triples, another holdout, or data.validation_path"
            )
        train, evaluation = (pairs_of(of_side, indices, self.seed) for of_side, indices in sides)
        return Splits(train, {"heldout": evaluation}, ("other", "similar"), ("accuracy", "triples"))
