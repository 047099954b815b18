"""The nine tasks of GLUE (Wang et al. 2019) as one table, read from the official TSV files or from TFDS."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roformer_jax.data.examples import Examples, examples_from_table
from roformer_jax.data.files import resolve
from roformer_jax.data.sources import TFDS_PREFIX, Table, read_table
from roformer_jax.errors import InputError

MAX_SCORE = 5.0  # STS-B: similarity from 0 to 5


@dataclass(frozen=True)
class GlueTask:
    """What one task's files and columns are called, and how it is scored.

    Attributes:
        name: key in `GLUE`.
        text_columns: one or two, in the TSV files.
        label_column: in the TSV files.
        label_names: in the order of the class indices (as in TFDS and Hugging Face); () for regression.
        metrics: the official ones, among "accuracy", "f1" (of class 1), "matthews", "pearson", "spearman".
        folder: the task's folder under the GLUE root.
        tfds_text_columns: the names of `text_columns` in TFDS, where the label is always "label".
        eval_splits: the labelled splits a model is scored on.
        test_splits: the unlabelled splits that are sent in.
        submission_files: what the predictions of each test split are called.
        names_in_files: whether the official files, and the ones sent in, spell labels by name instead of by index.
        train_header: the columns of train and dev files without a header line.
        training_examples: rows of the official training set.
        drop_short_rows: the official train file holds rows cut by a line break; TFDS and Hugging Face drop them too.
    """

    name: str
    text_columns: tuple[str, ...]
    label_column: str
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    folder: str
    tfds_text_columns: tuple[str, ...]
    training_examples: int
    eval_splits: tuple[str, ...] = ("dev",)
    test_splits: tuple[str, ...] = ("test",)
    submission_files: tuple[str, ...] = ()
    names_in_files: bool = False
    train_header: tuple[str, ...] | None = None
    drop_short_rows: bool = False

    @property
    def tfds_name(self) -> str:
        """The data set's name in TFDS."""
        return f"glue/{self.name}"

    @property
    def submission_labels(self) -> tuple[str, ...]:
        """The labels as the files sent in spell them, in the order of the class indices."""
        return self.label_names if self.names_in_files else tuple(str(i) for i in range(len(self.label_names)))


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")

GLUE: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            name="cola",
            text_columns=("sentence",),
            label_column="label",
            label_names=("unacceptable", "acceptable"),
            metrics=("matthews",),
            folder="CoLA",
            tfds_text_columns=("sentence",),
            training_examples=8_551,
            submission_files=("CoLA.tsv",),
            train_header=("source", "label", "star", "sentence"),
        ),
        GlueTask(
            name="sst2",
            text_columns=("sentence",),
            label_column="label",
            label_names=("negative", "positive"),
            metrics=("accuracy",),
            folder="SST-2",
            tfds_text_columns=("sentence",),
            training_examples=67_349,
            submission_files=("SST-2.tsv",),
        ),
        GlueTask(
            name="mrpc",
            text_columns=("#1 String", "#2 String"),
            label_column="Quality",
            label_names=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            folder="MRPC",
            tfds_text_columns=PAIR,
            training_examples=3_668,
            submission_files=("MRPC.tsv",),
        ),
        GlueTask(
            name="stsb",
            text_columns=PAIR,
            label_column="score",
            label_names=(),
            metrics=("pearson", "spearman"),
            folder="STS-B",
            tfds_text_columns=PAIR,
            training_examples=5_749,
            submission_files=("STS-B.tsv",),
        ),
        GlueTask(
            name="qqp",
            text_columns=("question1", "question2"),
            label_column="is_duplicate",
            label_names=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
            folder="QQP",
            tfds_text_columns=("question1", "question2"),
            training_examples=363_846,
            submission_files=("QQP.tsv",),
            drop_short_rows=True,
        ),
        GlueTask(
            name="mnli",
            text_columns=PAIR,
            label_column="gold_label",
            label_names=("entailment", "neutral", "contradiction"),
            metrics=("accuracy",),
            folder="MNLI",
            tfds_text_columns=("premise", "hypothesis"),
            training_examples=392_702,
            eval_splits=("dev_matched", "dev_mismatched"),
            test_splits=("test_matched", "test_mismatched"),
            submission_files=("MNLI-m.tsv", "MNLI-mm.tsv"),
            names_in_files=True,
        ),
        GlueTask(
            name="qnli",
            text_columns=("question", "sentence"),
            label_column="label",
            label_names=ENTAILMENT,
            metrics=("accuracy",),
            folder="QNLI",
            tfds_text_columns=("question", "sentence"),
            training_examples=104_743,
            submission_files=("QNLI.tsv",),
            names_in_files=True,
        ),
        GlueTask(
            name="rte",
            text_columns=PAIR,
            label_column="label",
            label_names=ENTAILMENT,
            metrics=("accuracy",),
            folder="RTE",
            tfds_text_columns=PAIR,
            training_examples=2_490,
            submission_files=("RTE.tsv",),
            names_in_files=True,
        ),
        GlueTask(
            name="wnli",
            text_columns=PAIR,
            label_column="label",
            label_names=("not_entailment", "entailment"),
            metrics=("accuracy",),
            folder="WNLI",
            tfds_text_columns=PAIR,
            training_examples=635,
            submission_files=("WNLI.tsv",),
        ),
    )
}


def read_glue(task: GlueTask, folder: str, split: str) -> Examples:
    """Reads one split of a task.

    Args:
        task: an entry of `GLUE`.
        folder: the GLUE root, the task's own folder, or "tfds:glue".
        split: "train", "dev" or "test"; for MNLI "dev_matched" and so on, where "dev" means "dev_matched", and a
            folder without dev_matched.tsv may call it dev.tsv.

    Raises:
        InputError: no such file or split, or a label outside the set; test splits have no labels.
    """
    labelled = split.partition("_")[0] != "test"
    if folder.startswith(TFDS_PREFIX):
        table, text_columns, label_column = _read_tfds(task, split, labelled), task.tfds_text_columns, "label"
    else:
        table, text_columns, label_column = (
            _read_tsv(task, folder, split, labelled),
            task.text_columns,
            task.label_column,
        )
    examples = examples_from_table(table, text_columns, label_column if labelled else None, task.label_names or None)
    if labelled and not task.label_names:
        _check_scores(examples)
    return examples


def available_eval_splits(task: GlueTask, folder: str) -> tuple[str, ...]:
    """Those of `task.eval_splits` that `folder` holds: a partial copy of MNLI may lack the mismatched one.

    Raises:
        InputError: none of them is there.
    """
    if folder.startswith(TFDS_PREFIX):
        return task.eval_splits
    found = tuple(split for split in task.eval_splits if _find_file(task, folder, split))
    if not found:
        raise InputError(
            f"{folder}: none of the files {_file_names(task, task.eval_splits[0])} of {task.folder} is there"
        )
    return found


def _read_tfds(task: GlueTask, split: str, labelled: bool) -> Table:
    """The split from TFDS, which says "validation" for dev."""
    split = task.eval_splits[0] if split == "dev" else split
    columns = [*task.tfds_text_columns, *(["label"] if labelled else [])]
    return read_table(f"{TFDS_PREFIX}{task.tfds_name}:{split.replace('dev', 'validation')}", columns)


def _read_tsv(task: GlueTask, folder: str, split: str, labelled: bool) -> Table:
    """The split from the official file."""
    file = _find_file(task, folder, split)
    if file is None:
        raise InputError(
            f"{folder}: no {' or '.join(_file_names(task, split))} for {task.folder} here or in {task.folder}/"
        )
    columns = [*task.text_columns, *([task.label_column] if labelled else [])]
    header = task.train_header if labelled else None
    return read_table(str(file), columns, header=header, drop_short_rows=task.drop_short_rows)


def _find_file(task: GlueTask, folder: str, split: str) -> Path | None:
    """The split's file under the GLUE root or the task's folder."""
    root = resolve(folder)
    candidates = (place / name for place in (root / task.folder, root) for name in _file_names(task, split))
    return next((file for file in candidates if file.is_file()), None)


def _file_names(task: GlueTask, split: str) -> list[str]:
    """What the split's file may be called, the official name first."""
    first = task.eval_splits[0]
    return list(dict.fromkeys([f"{first}.tsv", "dev.tsv"])) if split in ("dev", first) else [f"{split}.tsv"]


def _check_scores(examples: Examples) -> None:
    """Refuses scores out of range, such as the -1 that stands for a hidden one."""
    for i in np.flatnonzero((examples.labels < 0) | (examples.labels > MAX_SCORE)):
        raise InputError(f"{examples.where[i]}: score {examples.labels[i]} is not in [0, {MAX_SCORE}]")
