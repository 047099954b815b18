import numpy as np
import pytest

from roformer_jax.data.examples import examples_from_table, label_set
from roformer_jax.data.sources import Table
from roformer_jax.errors import InputError


def table(labels):
    count = len(labels)
    columns = {"a": [f"a{i}" for i in range(count)], "b": [f"b{i}" for i in range(count)], "label": list(labels)}
    return Table(columns, [f"t.tsv:{i + 2}" for i in range(count)])


def test_labels_are_names_or_indices():
    for labels in (["no", "yes", "no"], ["0", "1", "0"]):
        examples = examples_from_table(table(labels), ["a"], "label", ("no", "yes"))
        assert examples.labels.tolist() == [0, 1, 0]
        assert examples.labels.dtype == np.int32
        assert examples.texts == ["a0", "a1", "a2"]
        assert examples.pairs is None
        assert examples.where == ["t.tsv:2", "t.tsv:3", "t.tsv:4"]


def test_names_that_are_integers_are_names_only():
    assert examples_from_table(table(["2", "1"]), ["a"], "label", ("1", "2")).labels.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"label '0' is not one of \['1', '2'\]"):
        examples_from_table(table(["1", "0"]), ["a"], "label", ("1", "2"))


def test_two_text_columns_are_pairs_and_no_label_column_is_no_labels():
    examples = examples_from_table(table(["x"]), ["b", "a"], None, ("no", "yes"))
    assert (examples.texts, examples.pairs, examples.labels) == (["b0"], ["a0"], None)


@pytest.mark.parametrize("columns", [[], ["a", "b", "label"]])
def test_one_or_two_texts_make_an_example(columns):
    with pytest.raises(InputError, match="one or two text columns"):
        examples_from_table(table(["0"]), columns, None, None)


@pytest.mark.parametrize("label", ["-1", "2", "maybe", "", "-100", "1.0", " yes"])
def test_labels_outside_the_set_are_refused_with_row_value_and_set(label):
    with pytest.raises(InputError, match=rf"t\.tsv:3: label '{label}' is not one of \['no', 'yes', '0', '1'\]"):
        examples_from_table(table(["no", label]), ["a"], "label", ("no", "yes"))


def test_scores_are_float32():
    examples = examples_from_table(table(["0", "2.5", "-1e3"]), ["a"], "label", None)
    assert examples.labels.tolist() == [0.0, 2.5, -1000.0]
    assert examples.labels.dtype == np.float32


@pytest.mark.parametrize("label", ["nan", "inf", "-inf", "1e39", "-1.1e9", "high", ""])
def test_scores_that_cannot_be_squared_and_summed_are_refused(label):
    with pytest.raises(InputError, match=rf"t\.tsv:2: label '{label}' is not a finite number from -1e\+09 to 1e\+09"):
        examples_from_table(table([label]), ["a"], "label", None)


def test_the_label_set_is_sorted_and_distinct():
    assert label_set(table(["b", "a", "b", "c"]), "label") == ("a", "b", "c")
