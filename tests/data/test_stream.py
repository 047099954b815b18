import bz2
import gzip

import numpy as np
import pytest

from roformer_jax.data.stream import read_stream, stream_rows
from roformer_jax.errors import InputError

CONTENT = bytes(range(256)) + b"\r\n\0\xff" * 10


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".txt", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)]
)
def test_every_byte_comes_back_as_it_was(tmp_path, suffix, pack):
    file = tmp_path / f"stream{suffix}"
    file.write_bytes(pack(CONTENT))
    assert read_stream(str(file)).tobytes() == CONTENT
    assert read_stream(str(file), limit=7).tobytes() == CONTENT[:7]


def test_rows_hold_consecutive_bytes_and_leave_out_a_shorter_rest():
    rows = list(stream_rows(np.arange(10, dtype=np.uint8), 4))
    assert [row["ids"].tolist() for row in rows] == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert all(row["segment_ids"].tolist() == [1] * 4 for row in rows)
    assert {value.dtype for row in rows for value in row.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", b"", "the file is empty"),
        ("enwik8.zip", b"PK\x03\x04" + CONTENT, "a zip archive; unpack it first"),
        ("text.gz", b"not packed", "damaged .gz file"),
        ("text.gz", gzip.compress(CONTENT)[:-9], "damaged .gz file"),
        ("text.bz2", b"not packed", "damaged .bz2 file"),
        ("text.bz2", bz2.compress(CONTENT)[:-9], "damaged .bz2 file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        read_stream(str(tmp_path / name))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder; a stream of bytes is one file"):
        read_stream(str(tmp_path))
    with pytest.raises(InputError, match="no such file or folder"):
        read_stream(str(tmp_path / "absent"))
