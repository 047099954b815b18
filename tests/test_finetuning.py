"""Tables of labelled texts: rows that have no label are left out where the config says what stands for it."""

import pytest

from roformer_jax.errors import InputError
from roformer_jax.finetuning import Classification, TableConfig

ROWS = "text\tlabel\none\tyes\ntwo\t-\nthree\tno\n"
CLEAN = "text\tlabel\none\tyes\nthree\tno\n"


def experiment(tmp_path, rows, validation=None, **fields):
    train, dev = tmp_path / "train.tsv", tmp_path / "dev.tsv"
    train.write_text(rows, encoding="utf-8")
    dev.write_text(validation or rows, encoding="utf-8")
    return Classification(run_dir="-", data=TableConfig(path=str(train), validation_path=str(dev), **fields))


@pytest.mark.parametrize(
    ("unlabelled", "names", "labels"), [("-", ("no", "yes"), [1, 0]), (None, ("-", "no", "yes"), [2, 0, 1])]
)
def test_rows_without_a_label_are_left_out_of_training_and_evaluation(tmp_path, unlabelled, names, labels):
    splits = experiment(tmp_path, ROWS, unlabelled=unlabelled).splits()
    assert splits.label_names == names
    for examples in (splits.train, splits.evaluation["heldout"]):
        assert examples.labels.tolist() == labels
    assert splits.train.where[-1] == "train.tsv:4"


def test_a_table_without_a_single_label_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"train\.tsv: data\.unlabelled = '-' is the label of every row"):
        experiment(tmp_path, "text\tlabel\none\t-\n", unlabelled="-").splits()


@pytest.mark.parametrize(("train", "validation"), [(ROWS, CLEAN), (CLEAN, ROWS)])
def test_one_of_two_tables_may_be_without_unlabelled_rows(tmp_path, train, validation):
    splits = experiment(tmp_path, train, validation, unlabelled="-").splits()
    assert splits.train.labels.tolist() == splits.evaluation["heldout"].labels.tolist() == [1, 0]


def test_what_stands_for_no_label_and_is_nowhere_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"train\.tsv and .*dev\.tsv: data\.unlabelled = '–' is the label of no row"):
        experiment(tmp_path, ROWS, unlabelled="–").splits()
