import bz2
import gzip
import os
import sys
import tracemalloc
from pathlib import Path

import pytest

from roformer_jax.data.files import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_RATIO,
    UNPACKED_FREELY,
    check_length,
    read_bytes,
    read_document,
    read_text,
    resolve,
    text_suffix,
)
from roformer_jax.errors import InputError


def write(tmp_path, content: bytes, name="text.txt"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"plain\n", "plain\n"),
        (b"\xef\xbb\xbfmarked", "marked"),
        (b"one\r\ntwo\r\n", "one\ntwo\n"),
        ("emoji 👩‍👩‍👧 עברית\n\n".encode(), "emoji 👩‍👩‍👧 עברית\n\n"),
        (b"one\x0ctwo\xe2\x80\xa8three", "one\x0ctwo\u2028three"),
    ],
    ids=["plain", "byte order mark", "CRLF", "emoji and Hebrew", "separators that are not line ends"],
)
def test_text_is_read_as_it_is(tmp_path, content, expected):
    assert read_text(write(tmp_path, content)) == expected


def test_bytes_that_are_not_utf8_are_refused_with_file_and_line(tmp_path):
    path = write(tmp_path, b"one\ntwo\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"text\.txt:3: byte 0xe9 is not utf-8"):
        read_text(path)
    assert read_text(path, "latin-1") == "one\ntwo\ncafé\n"


def test_an_encoded_lone_surrogate_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"text\.txt:2: byte 0xed is not utf-8"):
        read_text(write(tmp_path, b"one\n\xed\xa0\x80"))


def test_binary_content_is_refused_with_file_and_line(tmp_path):
    with pytest.raises(InputError, match=r"text\.txt:2: NUL character"):
        read_text(write(tmp_path, b"one\ntw\0o\n"))


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"text\.txt: the file is empty"):
        read_text(write(tmp_path, b""))


def test_an_unknown_encoding_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown encoding 'klingon'"):
        read_text(write(tmp_path, b"text"), "klingon")


def test_gzip_is_unpacked_and_damage_to_it_is_told(tmp_path):
    packed = gzip.compress(b"a long enough line of text\n" * 20)
    assert read_text(write(tmp_path, packed, "a.tsv.gz")).startswith("a long enough")
    for damaged in (b"not gzip at all", packed[:-12], packed[:20] + b"\xff" * 12 + packed[32:]):
        with pytest.raises(InputError, match=r"b\.gz: damaged \.gz file"):
            read_text(write(tmp_path, damaged, "b.gz"))


def test_a_folder_a_pipe_and_a_device_are_not_files_and_nothing_waits_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="cannot be read: a folder, a pipe or a device, not a file"):
            read_text(path)


def test_a_link_stands_for_what_it_leads_to(tmp_path):
    (tmp_path / "link.txt").symlink_to(write(tmp_path, b"linked"))
    assert read_text(tmp_path / "link.txt") == "linked"
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match=r"dangling\.txt: cannot be read: No such file or directory"):
        read_text(tmp_path / "dangling.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    with pytest.raises(InputError, match=r"loop\.txt: cannot be read: Too many levels of symbolic links"):
        read_text(tmp_path / "loop.txt")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_a_file_made_to_fill_the_memory_is_refused_in_bounded_memory(tmp_path, monkeypatch, suffix, pack):
    monkeypatch.setattr("roformer_jax.data.files.UNPACKED_FREELY", 1 << 20)
    size = 64 << 20
    packed = pack(bytes(size))
    assert len(packed) * MAX_RATIO < size / 10
    file = write(tmp_path, packed, f"bomb.txt{suffix}")
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"bomb.txt{suffix}: {len(packed):,} bytes unpack to more than [\d,]+,"):
            read_text(file)
        assert read_bytes(file, 1000) == bytes(1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 4


def test_text_that_packs_well_is_unpacked(tmp_path):
    line = b"the same line again and again\n" * 200_000
    assert len(gzip.compress(line)) * MAX_RATIO < len(line) < UNPACKED_FREELY
    assert read_bytes(write(tmp_path, gzip.compress(line), "a.txt.gz")) == line


def test_the_suffix_looks_through_gz_and_bz2(tmp_path):
    assert text_suffix(tmp_path / "train.tsv.gz") == ".tsv"
    assert text_suffix(tmp_path / "train.tsv.bz2") == ".tsv"
    assert text_suffix(tmp_path / "train.v2.jsonl") == ".jsonl"


def test_a_missing_path_is_named():
    with pytest.raises(InputError, match="no/such/file: no such file or folder"):
        resolve("no/such/file")


def test_a_package_is_found_without_being_imported(tmp_path, monkeypatch):
    package = tmp_path / "package_with_texts"
    (package / "texts").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "texts" / "a.txt").write_text("a")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:package_with_texts/texts") == package / "texts"
    assert "package_with_texts" not in sys.modules
    with pytest.raises(InputError, match="package:package_with_texts/absent: no such file or folder"):
        resolve("package:package_with_texts/absent")


@pytest.mark.parametrize("name", ["no_such_package_anywhere", "json.decoder", "not a name", ""])
def test_a_package_that_is_not_there_says_how_to_install_it(name):
    with pytest.raises(InputError, match=f"package '{name}' is not installed; run: pip install {name}"):
        resolve(f"package:{name}/texts")


def test_of_a_document_without_end_no_more_is_read_than_tells_that_it_is_too_long(tmp_path):
    file = write(tmp_path, b"a")
    os.truncate(file, 1 << 40)  # takes no place on the disk
    with pytest.raises(InputError, match=rf"text.txt: a document of more than {MAX_BYTES:,} bytes, the limit is"):
        read_document(file)


def test_a_document_may_be_long_but_not_endless():
    assert check_length("a" * MAX_CHARACTERS, "here") == "a" * MAX_CHARACTERS
    with pytest.raises(InputError, match=r"f\.tsv:3: a document of 10,000,001 characters, the limit is 10,000,000"):
        check_length("a" * (MAX_CHARACTERS + 1), "f.tsv:3")
