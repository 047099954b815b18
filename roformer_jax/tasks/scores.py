"""What the outputs of a whole set are worth, in NumPy: the scores of GLUE and of triples, losses, confusion."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Shaped

Score = Callable[[np.ndarray, np.ndarray], float]


def accuracy(predictions: Shaped[np.ndarray, " rows"], labels: Shaped[np.ndarray, " rows"]) -> float:
    """Fraction of the rows whose predicted class is the label."""
    return float(np.mean(predictions == labels))


def f1(predictions: Int[np.ndarray, " rows"], labels: Int[np.ndarray, " rows"]) -> float:
    """Harmonic mean of precision and recall of class 1: 2 TP / (2 TP + FP + FN); 0 where nothing is of class 1."""
    predicted, actual = predictions == 1, labels == 1
    positives = predicted.sum() + actual.sum()
    return float(2 * np.sum(predicted & actual) / positives) if positives else 0.0


def matthews(predictions: Int[np.ndarray, " rows"], labels: Int[np.ndarray, " rows"]) -> float:
    """Matthews correlation of two classes: Pearson's of the indicators of class 1; 0 where either is constant."""
    return pearson(predictions == 1, labels == 1)


def pearson(predictions: Shaped[np.ndarray, " rows"], labels: Shaped[np.ndarray, " rows"]) -> float:
    """Pearson correlation, in float64; 0 where either is constant."""
    x, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def spearman(predictions: Shaped[np.ndarray, " rows"], labels: Shaped[np.ndarray, " rows"]) -> float:
    """Spearman correlation: Pearson's of the ranks, ties sharing their mean rank; 0 where either is constant."""
    import scipy.stats  # here, because it takes as long to import as all the rest, and one task of GLUE needs it

    return pearson(scipy.stats.rankdata(predictions), scipy.stats.rankdata(labels))


def triples(margins: Shaped[np.ndarray, " rows"], labels: Int[np.ndarray, " rows"]) -> float:
    """Fraction of the pairs of rows 2i and 2i + 1 whose row of class 1 has the larger margin; equal ones are wrong."""
    ahead = np.where(labels[::2] == 1, margins[::2] > margins[1::2], margins[1::2] > margins[::2])
    return float(np.mean(ahead))


SCORES: dict[str, Score] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "triples": triples,
}
OF_MARGINS = frozenset({"triples"})  # take the logit of class 1 less that of class 0 for a prediction


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over classes, in float64."""
    shifted = np.exp(logits.astype(np.float64) - np.max(logits, axis=-1, keepdims=True))
    return shifted / np.sum(shifted, axis=-1, keepdims=True)


def score(outputs: np.ndarray, labels: np.ndarray, metrics: tuple[str, ...]) -> dict[str, float]:
    """The named scores and the mean loss of outputs [examples, outputs] against labels [examples]."""
    if np.issubdtype(labels.dtype, np.floating):
        predictions = outputs[:, 0]
        loss = np.mean(np.square(predictions.astype(np.float64) - labels))
    else:
        predictions = np.argmax(outputs, axis=-1)
        loss = -np.mean(np.log(np.maximum(probabilities(outputs)[np.arange(len(labels)), labels], 1e-300)))
    given = {name: outputs[:, 1] - outputs[:, 0] if name in OF_MARGINS else predictions for name in metrics}
    return {"loss": float(loss)} | {name: float(SCORES[name](given[name], labels)) for name in metrics}


def confusion_matrix(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Counts [truth, predicted]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return counts
