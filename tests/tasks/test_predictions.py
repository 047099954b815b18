import numpy as np
import pytest

from roformer_jax.data.glue import GLUE
from roformer_jax.tasks.predictions import write_lines, write_predictions, write_submission

LOGITS = np.log(np.array([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))


def rows(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [line.split("\t") for line in text.removesuffix("\n").split("\n")]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("mnli", ["neutral", "entailment", "contradiction"]),
        ("rte", ["not_entailment", "entailment", "entailment"]),
        ("qnli", ["not_entailment", "entailment", "entailment"]),
        ("mrpc", ["1", "0", "0"]),
        ("cola", ["1", "0", "0"]),
        ("wnli", ["1", "0", "0"]),
    ],
)
def test_submissions_spell_labels_as_the_task_does(tmp_path, task, expected):
    names = GLUE[task].submission_labels
    write_submission(tmp_path / "out.tsv", LOGITS[:, : len(names)], names)
    assert rows(tmp_path / "out.tsv") == [["index", "prediction"], *([str(i), e] for i, e in enumerate(expected))]


def test_submitted_scores_are_clipped_to_the_range_of_the_task(tmp_path):
    write_submission(tmp_path / "STS-B.tsv", np.array([[-0.3], [5.7], [2.34567]], np.float32), ())
    assert rows(tmp_path / "STS-B.tsv")[1:] == [["0", "0.000"], ["1", "5.000"], ["2", "2.346"]]


def test_predictions_hold_the_label_and_every_probability(tmp_path):
    write_predictions(tmp_path / "new" / "out.tsv", LOGITS, ("x", "y", "z"))
    header, *found = rows(tmp_path / "new" / "out.tsv")
    assert header == ["label", "p(x)", "p(y)", "p(z)"]
    assert found == [
        ["y", "0.200000", "0.700000", "0.100000"],
        ["x", "0.500000", "0.250000", "0.250000"],
        ["z", "0.100000", "0.100000", "0.800000"],
    ]


def test_predictions_of_a_regression_are_scores_as_they_are(tmp_path):
    write_predictions(tmp_path / "out.tsv", np.array([[-1.5], [7.25]], np.float32), ())
    assert rows(tmp_path / "out.tsv") == [["score"], ["-1.500000"], ["7.250000"]]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.tsv"
    write_lines(path, ["old"])
    with pytest.raises(UnicodeEncodeError):
        write_lines(path, ["new", "\ud800"])
    assert path.read_text(encoding="utf-8") == "old\n"
    write_lines(path, ["new"])
    assert path.read_text(encoding="utf-8") == "new\n"
    assert [file.name for file in tmp_path.iterdir()] == ["out.tsv"]
