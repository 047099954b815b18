"""Pairs of lines are read strictly, and both of their sides lie in the same rows."""

import gzip

import numpy as np
import pytest

from roformer_jax.data.pairs import pack_pairs, pack_two_sides, read_lines, read_pairs, too_long
from roformer_jax.data.tokenizer import SPECIAL_TOKENS, train_bpe
from roformer_jax.errors import InputError

LENGTH = 16
RNG = np.random.default_rng(0)
SOURCES, TARGETS = ([RNG.integers(5, 90, n).astype(np.int32) for n in RNG.integers(1, 12, 40)] for _ in range(2))


@pytest.fixture
def file(tmp_path):
    """`file("a.en", content)`: the path of a file with these bytes."""

    def file(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return file


def test_lines_come_from_plain_and_packed_files_alike(file):
    text = "one\nzwei ä\r\nthree"
    plain, packed = file("a.en", text.encode()), file("a.en.gz", gzip.compress(f"{text}\n".encode()))
    assert read_lines(plain) == read_lines(packed) == ["one", "zwei ä", "three"]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (b"a\nb\nc\n", b"A\nB\n", "a.en has 3 lines and .*a.de has 2: line n of the one is to be the translation"),
        (b"a\n\nc\n", b"A\nB\nC\n", "a.en:2: an empty line; every line is to be a sentence"),
        (b"a\nb\n", b"A\n \n", "a.de:2: an empty line"),
        (b"a\nb\n", b"A\nB\xe4r\n", "a.de:2: byte 0xe4 is not utf-8"),
        (b"", b"A\n", "a.en: the file is empty"),
    ],
)
def test_files_that_are_no_pairs_are_refused_by_file_and_line(file, source, target, message):
    with pytest.raises(InputError, match=message):
        read_pairs(file("a.en", source), file("a.de", target))


def test_a_missing_file_is_refused_by_name(file):
    with pytest.raises(InputError, match=r"nowhere.de: no such file or folder"):
        read_pairs(file("a.en", b"a\n"), "nowhere.de")


def test_every_pair_is_in_one_row_that_holds_both_of_its_sides():
    sizes = np.random.default_rng(1).integers(1, LENGTH + 1, (500, 2))
    rows = list(pack_two_sides(sizes, LENGTH))
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(500))
    assert max(sizes[row].sum(axis=0).max() for row in rows) <= LENGTH
    again = list(pack_two_sides(sizes, LENGTH))
    assert all(np.array_equal(first, second) for first, second in zip(rows, again, strict=True))


def test_rows_of_many_short_pairs_are_nearly_full():
    rng = np.random.default_rng(2)
    source, difference = rng.integers(8, 30, 4000), rng.integers(-4, 5, 4000)
    sizes = np.stack([source, source + difference], axis=1)
    rows = list(pack_two_sides(sizes, 128))
    assert (sizes.sum(axis=0) > 0.96 * 128 * len(rows)).all()


def test_a_row_holds_sources_with_their_end_and_targets_with_their_start_and_what_follows():
    tokenizer = train_bpe([], vocab_size=262)
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    found = {}
    for row in pack_pairs(SOURCES, TARGETS, tokenizer, LENGTH):
        assert {(array.shape, array.dtype.name) for array in row.values()} == {((LENGTH,), "int32")}
        np.testing.assert_array_equal(row["labels"] == tokenizer.pad_id, row["segment_ids"] == 0)
        for segment in range(1, row["segment_ids"].max() + 1):
            source = row["source_ids"][row["source_segment_ids"] == segment].tolist()
            ids, labels = (row[name][row["segment_ids"] == segment].tolist() for name in ("ids", "labels"))
            assert (source[-1], ids[0], labels[-1]) == (sep, cls, sep) and ids[1:] == labels[:-1]
            found[tuple(source[:-1]), tuple(ids[1:])] = True
    expected = {(tuple(s.tolist()), tuple(t.tolist())) for s, t in zip(SOURCES, TARGETS, strict=True)}
    assert found.keys() == expected


def test_a_pair_is_too_long_where_either_side_and_its_special_token_exceed_the_row():
    texts = [np.zeros(n, np.int32) for n in (15, 16, 3, 1)]
    np.testing.assert_array_equal(too_long(texts, texts[::-1], LENGTH), [False, True, True, False])
    np.testing.assert_array_equal(too_long(texts[:1], texts[2:3], LENGTH), [False])


def test_byte_pair_encoding_gives_every_text_back_and_is_a_function_of_its_texts():
    texts = ["low lower lowest", "Neuer, neuer am neuesten!", "größer"] * 2
    tokenizer = train_bpe(texts, vocab_size=285)
    assert tokenizer.vocab_size == 285
    assert [tokenizer.token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    for text in [*texts, "日本 [MASK] ß  \t 😀"]:
        (ids,) = tokenizer.encode([text])
        assert tokenizer.decode(ids) == f" {text}"
        assert ids.min() >= len(SPECIAL_TOKENS)
    assert len(tokenizer.encode(["lower"])[0]) < 4 < len(tokenizer.encode(["xylem"])[0])
    assert train_bpe(texts, vocab_size=285).fingerprint == tokenizer.fingerprint
    with pytest.raises(InputError, match="vocab_size=261 leaves no room for merges"):
        train_bpe(texts, vocab_size=261)
