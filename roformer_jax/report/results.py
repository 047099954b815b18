"""What the quickstart measured: the numbers its report is written from, and what must hold of them."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from roformer_jax.errors import InputError


class MaskedWord(NamedTuple):
    """A held-out sentence with one word hidden; `before` and `after` bring their own spaces, guesses are best first."""

    before: str
    after: str
    answer: str
    guesses: tuple[tuple[str, float], ...]


class QuickstartResults(NamedTuple):
    """What the quickstart measured.

    Attributes:
        pretraining: position encoding ("rope" and "learned") -> rows of its metrics.jsonl, losses in nats per token.
        unigram_loss: cross-entropy, in nats, of the same held-out masked tokens under the training text's frequencies.
        finetuning: rows of metrics.jsonl; the evaluations are on the held-out articles.
        label_names: the kinds of articles, in the order of the confusion matrix.
        confusion: the held-out articles counted by (true kind, kind the fine-tuned RoFormer gives).
        tfidf_accuracy: fraction of the same articles that TF-IDF with logistic regression gives their true kind.
        masked_words: sentences to look at, with the guesses of the pretrained RoFormer.
        facts: what was run: versions, devices, seeds, seconds, commands, sizes.
    """

    pretraining: Mapping[str, list[dict]]
    unigram_loss: float
    finetuning: list[dict]
    label_names: tuple[str, ...]
    confusion: Int[np.ndarray, "classes classes"]
    tfidf_accuracy: float
    masked_words: tuple[MaskedWord, ...]
    facts: Mapping[str, str]

    @property
    def articles(self) -> int:
        """The number of held-out articles."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """The fraction of the held-out articles that the fine-tuned RoFormer gives their true kind."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def held_out(self, encoding: str, metric: str) -> float:
        """Returns the last held-out "loss" (nats per token) or "accuracy" (fraction) of a pretrained encoding."""
        return [row[metric] for row in self.pretraining[encoding] if row["kind"] == "eval"][-1]


def check(results: QuickstartResults) -> None:
    """Refuses results that no report can be written from.

    Raises:
        InputError: an encoding, a kind of row or every held-out article is missing, the shape of the confusion matrix
            is not that of the labels, or a held-out number is not finite.
    """
    for encoding in ("rope", "learned"):
        if encoding not in results.pretraining:
            raise InputError(
                f"the report compares 'rope' and 'learned'; pretraining holds {sorted(results.pretraining)}"
            )
    for name, rows in {**results.pretraining, "fine-tuning": results.finetuning}.items():
        _check_rows(name, rows)
    counts, classes = results.confusion, len(results.label_names)
    if counts.shape != (classes, classes) or not counts.any():
        raise InputError(
            f"the confusion matrix of {classes} labels must have shape ({classes}, {classes}) and count an article; "
            f"it has shape {counts.shape} and counts {counts.sum()}"
        )


def _check_rows(name: str, rows: list[dict]) -> None:
    kinds = {row["kind"] for row in rows}
    if not kinds >= {"train", "eval"}:
        raise InputError(
            f"the metrics of {name} lack 'train' or 'eval' rows (found: {sorted(kinds)}): run it to its end"
        )
    for row in rows:
        if row["kind"] == "eval" and not (math.isfinite(row["loss"]) and math.isfinite(row["accuracy"])):
            raise InputError(
                f"the metrics of {name} at update {row['step']} read loss {row['loss']}, accuracy {row['accuracy']}: "
                "the run diverged; lower its learning rate"
            )


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share of successes (Wilson 1927), which stays between 0 and 1."""
    z = 1.96
    centre = share + z**2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return (centre - half) / (1 + z**2 / trials), (centre + half) / (1 + z**2 / trials)
