import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.tasks.scores import (
    SCORES,
    accuracy,
    confusion_matrix,
    f1,
    matthews,
    pearson,
    probabilities,
    score,
    spearman,
)

EPS = float(np.finfo(np.float32).eps)
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
    found = score(outputs, labels, ("triples", "accuracy"))
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
    for name, function in SCORES.items():
        labels = np.array([0, 1, 1, 0]) if name == "triples" else LABELS  # one of each two rows
        assert type(function(labels, labels)) is float
        assert function(labels, labels) == pytest.approx(1.0, rel=1e-15)


def test_probabilities_are_a_softmax_that_does_not_overflow():
    found = probabilities(np.array([[0.0, np.log(3.0)], [1000.0, -1000.0], [-1000.0, -1000.0]], np.float32))
    np.testing.assert_allclose(found, [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], rtol=4 * EPS)


def test_scores_worked_by_hand():
    outputs = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], np.float32))
    found = score(outputs, np.array([0, 2, 1, 1], np.int32), ("accuracy",))
    expected = {"accuracy": 3 / 4, "loss": -np.mean(np.log([0.5, 0.8, 0.3, 0.5]))}
    assert found == pytest.approx(expected, rel=4 * EPS)
    scores, labels = np.array([[1.0], [2.0], [3.0]], np.float32), np.array([1.0, 3.0, 2.0], np.float32)
    found = score(scores, labels, ("pearson", "spearman"))
    assert found == pytest.approx({"loss": 2 / 3, "pearson": 0.5, "spearman": 0.5}, rel=4 * EPS)


def test_a_label_of_no_probability_costs_a_finite_loss():
    outputs = np.array([[1e6, 0.0]], np.float32)
    assert np.isfinite(score(outputs, np.array([1], np.int32), ())["loss"])


def test_confusion_matrix_counts_truth_by_prediction():
    found = confusion_matrix(np.array([0, 1, 1, 2, 1]), np.array([0, 1, 0, 2, 1]), 3)
    np.testing.assert_array_equal(found, [[1, 1, 0], [0, 2, 0], [0, 0, 1]])
