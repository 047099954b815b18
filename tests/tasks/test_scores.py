import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.tasks import classification
from roformer_jax.tasks.scores import SCORES, accuracy, f1, matthews, pearson, spearman

PREDICTIONS, LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 1]), np.array([1, 1, 0, 0, 0, 0, 1, 1])
REFERENCES = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": lambda labels, predictions: sklearn.metrics.f1_score(labels, predictions, zero_division=0.0),
    "matthews": sklearn.metrics.matthews_corrcoef,
    "pearson": lambda labels, predictions: scipy.stats.pearsonr(predictions, labels).statistic,
    "spearman": lambda labels, predictions: scipy.stats.spearmanr(predictions, labels).statistic,
}


def test_values_worked_by_hand():
    """TP = 3, FP = 1, FN = 1, TN = 3."""
    assert accuracy(PREDICTIONS, LABELS) == 6 / 8
    assert f1(PREDICTIONS, LABELS) == 2 * 3 / (2 * 3 + 1 + 1)
    assert matthews(PREDICTIONS, LABELS) == pytest.approx((3 * 3 - 1 * 1) / np.sqrt(4 * 4 * 4 * 4), rel=1e-15)
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    assert pearson(x, y) == spearman(x, y) == pytest.approx(0.5, rel=1e-15)
    assert spearman(np.array([1.0, 10.0, 1000.0]), np.array([0.1, 0.2, 0.3])) == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_class_scores_are_those_of_scikit_learn(name, rows):
    predictions, labels = np.array(rows).T
    if name == "matthews" and len(set(labels)) == len(set(predictions)) == 1:
        assert matthews(predictions, labels) == 0.0
    else:
        assert SCORES[name](predictions, labels) == pytest.approx(REFERENCES[name](labels, predictions), abs=1e-14)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_correlations_are_those_of_scipy_with_and_without_ties(name, dtype):
    rng = np.random.default_rng(0)
    for rows in (2, 3, 50, 1500):
        labels = np.round(rng.uniform(0, 5, rows), 1)
        labels[0] = 5.5
        predictions = (labels + rng.normal(size=rows)).astype(dtype)
        # Sums of `rows` rounded products: float64 eps times the number of rows.
        assert SCORES[name](predictions, labels) == pytest.approx(
            REFERENCES[name](labels, predictions.astype(np.float64)), abs=rows * 1e-15
        )


def test_a_triple_is_right_where_the_pair_of_class_1_has_the_larger_margin():
    margins = np.array([3.0, 2.0, -4.0, -3.0, 0.0, 0.0, -2.0, -1.0])
    outputs, labels = np.stack([5 - margins / 2, 5 + margins / 2], axis=1), np.array([1, 0, 0, 1, 1, 0, 0, 1])
    # 3 > 2: right; -3 > -4: right; equal: wrong; -1 > -2: right. One by one, half of them are on the wrong side of 0.
    found = classification.score(outputs, labels, ("triples", "accuracy"))
    assert (found["triples"], found["accuracy"]) == (3 / 4, 4 / 8)


def test_accuracy_counts_any_number_of_classes():
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])) == 0.5


@pytest.mark.parametrize("score", [matthews, pearson, spearman])
@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_or_labels_have_no_correlation(score, constant):
    same = np.full(8, constant)
    assert score(same, LABELS) == score(LABELS, same) == score(same, same) == 0.0


def test_f1_without_positives_is_zero():
    none = np.zeros(8, np.int64)
    assert f1(none, LABELS) == f1(LABELS, none) == f1(none, none) == 0.0


def test_every_score_is_a_python_float_and_perfect_predictions_score_one():
    for name, score in SCORES.items():
        labels = np.array([0, 1, 1, 0]) if name == "triples" else LABELS  # one of each two rows
        assert type(score(labels, labels)) is float
        assert score(labels, labels) == pytest.approx(1.0, rel=1e-15)
