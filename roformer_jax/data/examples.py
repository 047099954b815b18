"""Labelled texts, or pairs of texts, as the fine-tuning tasks take them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from roformer_jax.data.bounds import LARGEST
from roformer_jax.data.sources import Table
from roformer_jax.errors import InputError


class Examples(NamedTuple):
    """Texts with labels.

    Attributes:
        texts: the (first) text of each example.
        pairs: the second texts, or None.
        labels: int32 class indices, float32 scores (regression), or None (no labels).
        where: "train.tsv:17" of each example, for error messages.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray | None
    where: list[str]


def examples_from_table(
    table: Table, text_columns: Sequence[str], label_column: str | None, label_names: Sequence[str] | None
) -> Examples:
    """Turns rows into examples.

    Args:
        table: holds the text and label columns.
        text_columns: one name, or two for pairs.
        label_column: None for unlabelled rows.
        label_names: class names in the order of their indices; a label is a name or, where no name is itself an
            integer, an index. None for regression, where a label is a finite number of at most `LARGEST` in size.

    Raises:
        InputError: a label outside the set or not finite; the message names the row, the value and what is allowed.
    """
    if len(text_columns) not in (1, 2):
        raise InputError(f"one or two text columns are needed, got {list(text_columns)}")
    texts = [table.columns[name] for name in text_columns]
    labels = None
    if label_column is not None:
        values = table.columns[label_column]
        labels = _scores(values, table.where) if label_names is None else _classes(values, table.where, label_names)
    return Examples(texts[0], texts[1] if len(texts) == 2 else None, labels, table.where)


def label_set(table: Table, label_column: str) -> tuple[str, ...]:
    """The distinct labels, sorted."""
    return tuple(sorted(set(table.columns[label_column])))


def _classes(values: list[str], where: list[str], names: Sequence[str]) -> np.ndarray:
    """Class indices, int32."""
    index = {name: i for i, name in enumerate(names)}
    if not any(name.lstrip("-").isdecimal() for name in names):
        index |= {str(i): i for i in range(len(names))}
    for value, place in zip(values, where, strict=True):
        if value not in index:
            raise InputError(f"{place}: label {value!r} is not one of {list(index)}")
    return np.array([index[value] for value in values], np.int32)


def _scores(values: list[str], where: list[str]) -> np.ndarray:
    """Scores of a size that can be squared and summed, float32."""
    scores = []
    for value, place in zip(values, where, strict=True):
        try:
            score = float(value)
        except ValueError:
            score = np.nan
        if not abs(score) <= LARGEST:
            raise InputError(f"{place}: label {value!r} is not a finite number from -{LARGEST:g} to {LARGEST:g}")
        scores.append(score)
    return np.array(scores, np.float32)
