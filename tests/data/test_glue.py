import numpy as np
import pytest
import tensorflow_datasets as tfds

from roformer_jax.data.glue import GLUE, available_eval_splits, read_glue
from roformer_jax.errors import InputError

# The first line of each official file (train and dev; CoLA has none), and a row with its class or score.
OFFICIAL = {
    "cola": (None, "gj04\t0\t*\tThe a.", ["The a."], 0),
    "sst2": ("sentence\tlabel", 'a "charm\t1', ['a "charm'], 1),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t7\t8\tHe said "so.\tSo he said.',
        ['He said "so.', "So he said."],
        1,
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tmain\tMSRvid\t2012\t1\tnone\tnone\tA plane.\tA bird.\t3.800",
        ["A plane.", "A bird."],
        3.8,
    ),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWhy?\tHow?\t0", ["Why?", "How?"], 0),
    "mnli": (
        "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label",
        "0\t9\tNew rights.\tNo rights.\tneutral\tcontradiction",
        ["New rights.", "No rights."],
        2,
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tWhen?\tThen.\tentailment", ["When?", "Then."], 0),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tnot_entailment", ["A.", "B."], 1),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tIt is.\tIs it.\t1", ["It is.", "Is it."], 1),
}


def write_split(folder, lines):
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("\n".join(line for line in lines if line) + "\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    for name, (header, row, _, _) in OFFICIAL.items():
        write_split(tmp_path / GLUE[name].folder / "train.tsv", [header, row])
    return tmp_path


def test_all_nine_tasks_are_there():
    assert set(GLUE) == set(OFFICIAL)
    assert all(len(t.tfds_text_columns) == len(t.text_columns) for t in GLUE.values())
    assert all(len(t.submission_files) == len(t.test_splits) for t in GLUE.values())


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_are_read(root, name):
    _, row, texts, label = OFFICIAL[name]
    task = GLUE[name]
    for folder in (root, root / task.folder):
        examples = read_glue(task, str(folder), "train")
        assert [examples.texts[0], *([examples.pairs[0]] if examples.pairs else [])] == texts
        assert examples.labels[0] == np.asarray(label, examples.labels.dtype)
        if task.label_names:  # files and submissions spell labels alike
            assert task.submission_labels[label] in row.split("\t")
        assert examples.labels.dtype == (np.int32 if task.label_names else np.float32)


@pytest.mark.parametrize("name", OFFICIAL)
def test_label_names_and_columns_are_those_of_tfds(name):
    task = GLUE[name]
    import tensorflow_datasets.text  # registers glue

    features = tensorflow_datasets.builder(task.tfds_name).info.features
    assert set(task.tfds_text_columns) < set(features)
    assert task.label_names == tuple(getattr(features["label"], "names", ()))


@pytest.mark.parametrize("name", OFFICIAL)
def test_tfds_stands_in_for_the_folder(name):
    task = GLUE[name]
    with tfds.testing.mock_data(num_examples=2):
        if task.label_names:
            examples = read_glue(task, "tfds:glue", "dev")
            assert examples.where[1].startswith(f"tfds:{task.tfds_name}:validation")
            assert set(examples.labels.tolist()) <= set(range(len(task.label_names)))
        unlabelled = read_glue(task, "tfds:glue", task.test_splits[-1])
    assert unlabelled.labels is None
    assert len(unlabelled.texts) == 2
    assert available_eval_splits(task, "tfds:glue") == task.eval_splits


def test_test_files_have_a_header_and_no_labels(root):
    write_split(root / "CoLA" / "test.tsv", ["index\tsentence", "0\tBill whistled.", "1\tBill."])
    examples = read_glue(GLUE["cola"], str(root), "test")
    assert (examples.texts, examples.labels) == (["Bill whistled.", "Bill."], None)


@pytest.mark.parametrize("label", ["-1", "-", "hidden", "3"])
def test_labels_outside_the_set_are_refused(root, label):
    header, row, _, _ = OFFICIAL["mnli"]
    write_split(root / "MNLI" / "train.tsv", [header, row, row.replace("contradiction", label)])
    with pytest.raises(InputError, match=rf"train\.tsv:3: label '{label}' is not one of \['entailment', 'neutral', "):
        read_glue(GLUE["mnli"], str(root), "train")


@pytest.mark.parametrize("score", ["-1.0", "5.5", "nan"])
def test_scores_out_of_range_are_refused(root, score):
    header, row, _, _ = OFFICIAL["stsb"]
    write_split(root / "STS-B" / "train.tsv", [header, row, row.replace("3.800", score)])
    with pytest.raises(InputError, match=r"train\.tsv:3: "):
        read_glue(GLUE["stsb"], str(root), "train")


def test_rows_of_qqp_cut_by_a_line_break_are_dropped_but_not_those_of_other_tasks(root):
    for name in ("qqp", "qnli"):
        header, row, _, _ = OFFICIAL[name]
        write_split(root / GLUE[name].folder / "train.tsv", [header, row, "1\tcut", "off\t1", row])
    assert len(read_glue(GLUE["qqp"], str(root), "train").texts) == 2
    with pytest.raises(InputError, match=r"train\.tsv:3: 2 fields where the header has 4"):
        read_glue(GLUE["qnli"], str(root), "train")


def test_mnli_has_two_dev_sets_and_dev_is_the_matched_one(root):
    header, row, _, _ = OFFICIAL["mnli"]
    write_split(root / "MNLI" / "dev_matched.tsv", [header, row])
    write_split(root / "MNLI" / "dev_mismatched.tsv", [header, row, row])
    counts = {
        split: len(read_glue(GLUE["mnli"], str(root), split).texts) for split in ("dev", *GLUE["mnli"].eval_splits)
    }
    assert counts == {"dev": 1, "dev_matched": 1, "dev_mismatched": 2}
    assert available_eval_splits(GLUE["mnli"], str(root)) == ("dev_matched", "dev_mismatched")


def test_a_folder_with_a_plain_dev_file_serves_as_the_matched_set(root):
    header, row, _, _ = OFFICIAL["mnli"]
    folder = root / "MNLI"
    write_split(folder / "dev.tsv", [header, row])
    write_split(folder / "dev_mismatched_1k.tsv", [header, row])
    assert read_glue(GLUE["mnli"], str(folder), "dev").where == ["dev.tsv:2"]
    assert available_eval_splits(GLUE["mnli"], str(folder)) == ("dev_matched",)
    with pytest.raises(InputError, match=r"no dev_mismatched\.tsv for MNLI"):
        read_glue(GLUE["mnli"], str(folder), "dev_mismatched")


def test_a_folder_without_the_task_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no dev\.tsv for RTE here or in RTE/"):
        read_glue(GLUE["rte"], str(tmp_path), "dev")
    with pytest.raises(InputError, match="none of the files"):
        available_eval_splits(GLUE["rte"], str(tmp_path))
