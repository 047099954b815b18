import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from roformer_jax.data.sources import read_table, read_texts
from roformer_jax.data.tfds_source import read_tfds
from roformer_jax.errors import InputError


class TinyReviews(tfds.core.GeneratorBasedBuilder):
    """Four reviews; the third of split "dirty" is not UTF-8, the fourth has a hidden label."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # looking for it needs importlib_resources, which tfds 4.9.10 does not bring

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["bad", "good"]),
            "score": np.float32,
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(b"fine"), "dirty": self._generate_examples(b"caf\xe9")}

    def _generate_examples(self, third):
        for i, text in enumerate(["première", "second", third, "fourth"]):
            yield i, {"text": text, "label": -1 if i == 3 else i % 2, "score": i / 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    tfds.builder("tiny_reviews", data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_prepared_data_set_is_read_as_text_without_tensorflow(data_dir):
    values = read_tfds("tiny_reviews", "train", ["text", "label", "score"], data_dir)
    assert values == {
        "text": ["première", "second", "fine", "fourth"],
        "label": ["bad", "good", "bad", "-1"],
        "score": ["0.0", "0.5", "1.0", "1.5"],
    }
    assert "tensorflow" not in sys.modules


def test_a_prepared_data_set_is_read_from_its_folder_wherever_it_lies(data_dir):
    (folder,) = (data_dir / "tiny_reviews").iterdir()
    assert read_tfds(str(folder), "train[1:3]", ["text"]) == {"text": ["second", "fine"]}
    with pytest.raises(InputError, match=f"tfds:{data_dir}/nowhere: "):
        read_tfds(f"{data_dir}/nowhere", "train", ["text"])


def test_slices_of_a_split_can_be_named(data_dir):
    assert read_tfds("tiny_reviews", "train[1:3]", ["text"], data_dir) == {"text": ["second", "fine"]}


def test_text_that_is_not_utf8_is_refused_with_its_record(data_dir):
    with pytest.raises(InputError, match=r"tiny_reviews:dirty, record 2, column 'text': byte 0xe9 at 3 is not UTF-8"):
        read_tfds("tiny_reviews", "dirty", ["text"], data_dir)


def test_unknown_columns_and_splits_are_told_with_those_that_exist(data_dir):
    with pytest.raises(InputError, match=r"no column 'body'; the columns are .*'text'"):
        read_tfds("tiny_reviews", "train", ["body"], data_dir)
    with pytest.raises(InputError, match=r"cannot read split 'dev': .*; the splits are \['dirty', 'train'\]"):
        read_tfds("tiny_reviews", "dev", ["text"], data_dir)


def test_an_empty_slice_is_refused(data_dir):
    with pytest.raises(InputError, match=r"cannot read split 'train\[:0\]'"):
        read_tfds("tiny_reviews", "train[:0]", ["text"], data_dir)


@pytest.mark.parametrize("keep", [0, 0.5, 1])
def test_damaged_files_are_told_with_their_record(data_dir, tmp_path, keep):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob("*train.array_record*")
    sound = file.read_bytes()
    at = sound.index(b"second")
    damaged = sound[:at] + b"\xff" + sound[at + 1 :]
    file.write_bytes(damaged[: int(len(sound) * keep)])
    with pytest.raises(InputError, match=r"record [01]: (damaged|lost): .*; prepare the data set again"):
        read_tfds("tiny_reviews", "train", ["text"], tmp_path)


def without(file):
    file.unlink()


def with_half_its_records(file):
    reader = ArrayRecordReader(str(file))
    records = reader.read([0, 1])
    reader.close()
    writer = ArrayRecordWriter(str(file), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize(("harm", "record"), [(without, 0), (with_half_its_records, 2)])
def test_a_set_of_fewer_records_than_its_description_says_is_refused_not_cut_short(data_dir, tmp_path, harm, record):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob("*train.array_record*")
    harm(file)
    with pytest.raises(InputError, match=f"train, record {record}: damaged: .*; prepare the data set again"):
        read_tfds("tiny_reviews", "train", ["text"], tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_description_is_told(data_dir, tmp_path, content):
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.rglob("dataset_info.json")
    file.write_text(content)
    with pytest.raises(InputError, match=r'tfds:tiny_reviews: .*"tiny_reviews"'):
        read_tfds("tiny_reviews", "train", ["text"], tmp_path)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(InputError, match="knows no such data set"):
        read_tfds("no_such_data_set", "train", ["text"])
    with pytest.raises(InputError, match="no_such_task"):
        read_tfds("glue/no_such_task", "train", ["text"])


def test_an_unprepared_data_set_says_how_to_prepare_it(tmp_path):
    with pytest.raises(InputError, match=r"is not prepared under .*file_format=\"array_record\".*tensorflow-cpu"):
        read_tfds("glue/sst2", "train", ["sentence"], tmp_path)


def test_a_data_set_prepared_as_tfrecord_says_how_to_prepare_it_again(data_dir, tmp_path):
    builder = tfds.builder("tiny_reviews", data_dir=data_dir)
    other = tmp_path / "tiny_reviews" / "1.0.0"
    other.mkdir(parents=True)
    for file in builder.data_path.iterdir():
        content = file.read_bytes().replace(b"array_record", b"tfrecord")
        (other / file.name.replace("array_record", "tfrecord")).write_bytes(content)
    with pytest.raises(InputError, match=r"is prepared as tfrecord.*file_format=\"array_record\""):
        read_tfds("tiny_reviews", "train", ["text"], tmp_path)


def test_a_tfds_path_is_a_table():
    with tfds.testing.mock_data(num_examples=3):
        table = read_table("tfds:glue/sst2:validation", ["sentence", "label"])
        texts = read_texts("tfds:glue/sst2", column="sentence")
    assert len(texts) == 3
    assert set(table.columns["label"]) <= {"negative", "positive"}
    assert table.where[2] == "tfds:glue/sst2:validation, record 2"
