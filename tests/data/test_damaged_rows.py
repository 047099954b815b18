import json

import numpy as np
import pytest

from roformer_jax.data.rows import METADATA_FILE, ROWS_FILE
from roformer_jax.errors import InputError
from tests.data.made_rows import KEY, make_rows, never, only_folder, rows_of


def test_damaged_bytes_are_told_or_harmless_never_wrong_rows(tmp_path):
    expected = list(make_rows())
    rows_of(tmp_path, KEY, make_rows).close()
    file = only_folder(tmp_path) / ROWS_FILE
    sound = file.read_bytes()
    told = 0
    used = np.flatnonzero(np.frombuffer(sound, np.uint8))  # most of so small a file is padding
    for position in np.random.default_rng(1).choice(used, 100, replace=False):
        damaged = bytearray(sound)
        damaged[position] ^= 0xFF
        file.write_bytes(damaged)
        try:
            with rows_of(tmp_path, KEY, never) as store:
                for i, row in enumerate(expected):
                    for name, value in row.items():
                        np.testing.assert_array_equal(store[i][name], value)
        except InputError as error:
            assert ROWS_FILE in str(error)
            told += 1
    assert told > 0


def test_a_damaged_record_is_named(tmp_path):
    rows_of(tmp_path, KEY, make_rows).close()
    file = only_folder(tmp_path) / ROWS_FILE
    sound = file.read_bytes()
    labels_of_row_3 = list(make_rows())[3]["labels"].tobytes()
    with rows_of(tmp_path, KEY, never) as store:
        assert store[3]["labels"].tobytes() == labels_of_row_3
    at = sound.index(labels_of_row_3)
    file.write_bytes(sound[:at] + b"\xff" + sound[at + 1 :])
    with rows_of(tmp_path, KEY, never) as store:
        np.testing.assert_array_equal(store[2]["labels"], list(make_rows())[2]["labels"])
        with pytest.raises(InputError, match=rf"{ROWS_FILE}: record 3 is damaged: .*; delete the folder"):
            store[3]


def cut(file, keep):
    file.write_bytes(file.read_bytes()[:keep])


def halve(file):
    cut(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.unlink(),
        lambda file: cut(file, 0),
        lambda file: cut(file, 100),
        halve,
        lambda file: cut(file, -1),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["missing", "empty", "100 bytes", "half", "all but a byte", "a folder"],
)
def test_a_file_that_is_not_whole_is_told_when_it_is_opened(tmp_path, harm):
    rows_of(tmp_path, KEY, make_rows).close()
    harm(only_folder(tmp_path) / ROWS_FILE)
    with pytest.raises(InputError, match=rf"{ROWS_FILE}: damaged: .*; delete the folder"):
        rows_of(tmp_path, KEY, never)


def test_fewer_records_than_promised_are_told(tmp_path):
    rows_of(tmp_path, KEY, make_rows).close()
    rows_of(tmp_path / "other", KEY, lambda: make_rows(4)).close()
    folder = tmp_path / only_folder(tmp_path / "other").name
    (only_folder(tmp_path / "other") / ROWS_FILE).replace(folder / ROWS_FILE)
    with pytest.raises(InputError, match=r"4 records where metadata\.json says 5"):
        rows_of(tmp_path, KEY, never)


def test_records_of_another_size_are_told(tmp_path):
    rows_of(tmp_path, KEY, make_rows).close()
    path = only_folder(tmp_path) / METADATA_FILE
    metadata = json.loads(path.read_text())
    metadata["fields"][2]["shape"] = [2, 4]
    path.write_text(json.dumps(metadata))
    with (
        rows_of(tmp_path, KEY, never) as store,
        pytest.raises(InputError, match=r"record 0 .* 88 bytes, expected 96"),
    ):
        store[0]


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", "3", "[" * 100_000])
def test_damaged_or_missing_metadata_is_told(tmp_path, content):
    rows_of(tmp_path, KEY, make_rows).close()
    path = only_folder(tmp_path) / METADATA_FILE
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(InputError, match=rf"{METADATA_FILE}: damaged or missing"):
        rows_of(tmp_path, KEY, never)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("key", {"texts": "abcd", "length": 8}),
        ("rows", 0),
        ("rows", -5),
        ("rows", "5"),
        ("rows", 5.0),
        ("tokens", 0),
        ("real_tokens", 41),
        ("fields", [{"name": "ids", "dtype": "O", "shape": [8]}]),
        ("fields", [{"name": "ids", "dtype": "no type", "shape": [8]}]),
        ("fields", ["ids"]),
        ("ranges", {"ids": [0, None]}),
        ("ranges", {"ids": [0]}),
        ("ranges", {"ids": [0, float("nan")]}),
        ("ranges", {"ids": ["0", "1"]}),
        ("ranges", {"ids": [0, 10**400]}),
        ("ranges", 3),
    ],
)
def test_metadata_that_cannot_be_is_told(tmp_path, entry, value):
    rows_of(tmp_path, KEY, make_rows).close()
    path = only_folder(tmp_path) / METADATA_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {entry: value}))
    with pytest.raises(InputError, match=rf"{METADATA_FILE}: damaged or missing \(.+\); delete the folder"):
        rows_of(tmp_path, KEY, never)
