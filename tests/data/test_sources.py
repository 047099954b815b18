import bz2
import csv
import gzip
import hashlib
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.data.sources import deduplicate, read_table, read_texts, split_by_content
from roformer_jax.errors import InputError

FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=20)


def write(tmp_path, name, content: str | bytes):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_folder_gives_one_document_a_file_in_the_order_of_their_paths(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/y.txt", "c.md"):
        write(tmp_path, name, name)
    assert read_texts(str(tmp_path)) == ["a/y.txt", "a/z.txt", "b.txt"]
    assert read_texts(str(tmp_path), pattern="*.md") == ["c.md"]


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file of this folder matches '\*\*/\*\.txt'"):
        read_texts(str(tmp_path))


def test_an_empty_file_of_a_folder_is_named(tmp_path):
    write(tmp_path, "full.txt", "full")
    write(tmp_path, "hollow.txt", "")
    with pytest.raises(InputError, match=r"hollow\.txt: the file is empty"):
        read_texts(str(tmp_path))


def test_links_to_files_are_read_and_links_to_folders_are_not_entered(tmp_path):
    write(tmp_path, "texts/a.txt", "a")
    write(tmp_path, "elsewhere/b.txt", "b")
    (tmp_path / "texts" / "file.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (tmp_path / "texts" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "loop").symlink_to(tmp_path / "texts")
    assert read_texts(str(tmp_path / "texts")) == ["a", "b"]


def test_a_link_to_nothing_is_named_not_left_out(tmp_path):
    write(tmp_path, "a.txt", "a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"b\.txt: cannot be read: No such file"):
        read_texts(str(tmp_path))


def test_a_column_that_stands_twice_is_ambiguous(tmp_path):
    path = write(tmp_path, "a.csv", "text,text,label\na,b,1\n")
    assert read_table(path, ["label"]).columns == {"label": ["1"]}
    with pytest.raises(InputError, match=r"a\.csv: more than one column 'text'; the columns are \['text', 'text'"):
        read_table(path, ["text"])


def test_a_text_file_is_one_document_with_its_blank_lines(tmp_path):
    assert read_texts(write(tmp_path, "a.txt", "one\n\n\ntwo\n")) == ["one\n\n\ntwo\n"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\ttext\n1\tone\n2\ttwo\n"),
        ("a.csv", 'id,text\n1,one\n2,"two"\n'),
        ("a.jsonl", '{"id": 1, "text": "one"}\n{"text": "two", "id": 2}\n'),
        ("a.json", '{"id": null, "text": "one"}\n{"id": [], "text": "two"}\n'),
        ("a.tsv.gz", gzip.compress(b"id\ttext\n1\tone\n2\ttwo\n", mtime=0)),
        ("a.csv.bz2", bz2.compress(b"id,text\n1,one\n2,two\n")),
    ],
)
def test_a_table_gives_one_document_a_row(tmp_path, name, content):
    assert read_texts(write(tmp_path, name, content)) == ["one", "two"]


def test_other_files_are_no_tables(tmp_path):
    with pytest.raises(InputError, match=r"a\.xlsx: \.xlsx suffix; a table is one of \.csv, \.tsv, \.jsonl"):
        read_table(write(tmp_path, "a.xlsx", "text"), ["text"])


def test_tsv_has_no_quoting(tmp_path):
    table = read_table(write(tmp_path, "a.tsv", 'text\tlabel\n"odd quote\t1\n"two ""quotes"""\t0\n'), ["text", "label"])
    assert table.columns["text"] == ['"odd quote', '"two ""quotes"""']
    assert table.where == ["a.tsv:2", "a.tsv:3"]


def test_tsv_tolerates_a_byte_order_mark_crlf_and_blank_lines(tmp_path):
    content = b"\xef\xbb\xbftext\tlabel\r\none\t1\r\n\r\ntwo\t0\r\n"
    table = read_table(write(tmp_path, "a.tsv", content), ["label", "text"])
    assert table.columns == {"label": ["1", "0"], "text": ["one", "two"]}
    assert table.where == ["a.tsv:2", "a.tsv:4"]


def test_characters_that_merely_look_like_line_ends_do_not_split_rows(tmp_path):
    table = read_table(write(tmp_path, "a.tsv", "text\none\u2028still one\x0c\x85\n"), ["text"])
    assert table.columns["text"] == ["one\u2028still one\x0c\x85"]


def test_empty_fields_are_kept(tmp_path):
    assert read_table(write(tmp_path, "a.tsv", "a\tb\n\tx\ny\t\n"), ["a", "b"]).columns == {
        "a": ["", "y"],
        "b": ["x", ""],
    }


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8))
def test_csv_gives_back_what_a_csv_writer_wrote(tmp_path_factory, rows):
    file = io.StringIO(newline="")
    csv.writer(file).writerows([("text", "label"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(file.getvalue().encode())
    table = read_table(str(path), ["text", "label"])
    assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == rows


def test_csv_rows_are_named_by_the_line_they_begin_on(tmp_path):
    table = read_table(write(tmp_path, "a.csv", 'text,label\n"two\nlines",1\nplain,0\n'), ["text"])
    assert table.where == ["a.csv:2", "a.csv:4"]


def test_csv_fields_may_be_longer_than_the_csv_module_allows_and_its_limit_is_put_back(tmp_path):
    before = csv.field_size_limit()
    long = "a" * (before + 1)
    assert read_texts(write(tmp_path, "a.csv", f"text\n{long}\n")) == [long]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("content", ['text\n"open\nand open\n', 'text\n"a"b\n'])
def test_broken_csv_is_refused_with_its_line(tmp_path, content):
    with pytest.raises(InputError, match=r"a\.csv:2: not valid CSV"):
        read_table(write(tmp_path, "a.csv", content), ["text"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON list, expected an object"),
        ('{"text": "a"}', r"keys \['text'\] where the first line has \['text', 'label'\]"),
        ('{"text": null, "label": 1}', "'text' is null, expected a string or a number"),
        ('{"text": "a", "label": true}', "'label' is true, expected"),
        ('{"text": "\\ud800", "label": 1}', "'text' holds a lone surrogate"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_json_lines_are_refused_with_their_line(tmp_path, line, problem):
    path = write(tmp_path, "a.jsonl", '{"text": "fine", "label": 1}\n\n' + line + "\n")
    with pytest.raises(InputError, match=f"a.jsonl:3: {problem}"):
        read_table(path, ["text", "label"])


def test_json_numbers_become_text(tmp_path):
    path = write(
        tmp_path, "a.jsonl", json.dumps({"text": "😀", "label": 1}) + "\n" + json.dumps({"text": "b", "label": 0.5})
    )
    assert read_table(path, ["text", "label"]).columns == {"text": ["😀", "b"], "label": ["1", "0.5"]}


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_rows_of_another_width_are_refused_with_both_counts(tmp_path, name):
    separator = "\t" if name == "a.tsv" else ","
    content = "text,label\none,1\ntwo\n".replace(",", separator)
    with pytest.raises(InputError, match=rf"{name}:3: 1 fields where the header has 2"):
        read_table(write(tmp_path, name, content), ["text"])


def test_short_rows_can_be_dropped_but_long_ones_cannot(tmp_path, caplog):
    path = write(tmp_path, "a.tsv", "text\tlabel\none\t1\ncut\noff\ntwo\t0\n")
    assert read_table(path, ["text"], drop_short_rows=True).where == ["a.tsv:2", "a.tsv:5"]
    assert "left out 2 rows with too few fields: a.tsv:3" in caplog.text
    with pytest.raises(InputError, match="3 fields where the header has 2"):
        read_table(write(tmp_path, "b.tsv", "text\tlabel\na\tb\tc\n"), ["text"], drop_short_rows=True)


def test_a_header_can_be_given(tmp_path):
    table = read_table(write(tmp_path, "a.tsv", "one\t1\ntwo\t0\n"), ["label"], header=["text", "label"])
    assert table.columns == {"label": ["1", "0"]}
    assert table.where == ["a.tsv:1", "a.tsv:2"]


def test_a_missing_column_is_told_with_those_that_exist(tmp_path):
    with pytest.raises(InputError, match=r"no column 'body'; the columns are \['text', 'label'\]"):
        read_texts(write(tmp_path, "a.tsv", "text\tlabel\none\t1\n"), column="body")


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_tables_without_rows_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"no rows|no column"):
        read_table(write(tmp_path, name, "text\n" if name != "a.jsonl" else "\n"), ["text"])


@pytest.mark.parametrize("content", [b"text\nok\ncaf\xe9\n", b"text\nok\nn\0l\n"])
def test_dirty_bytes_in_tables_are_refused_with_their_line(tmp_path, content):
    with pytest.raises(InputError, match=r"a\.tsv:3: "):
        read_table(write(tmp_path, "a.tsv", content), ["text"])


def test_folders_of_texts_are_classes(tmp_path):
    write(tmp_path, "sport/2.txt", "caf\xe9".encode("latin-1"))
    write(tmp_path, "sport/1.txt", "goal")
    write(tmp_path, "tech/1.txt", "chip")
    write(tmp_path, "README.txt", "not a class")
    table = read_table(str(tmp_path), ["text", "label"], encoding="latin-1")
    assert table.columns == {"text": ["goal", "café", "chip"], "label": ["sport", "sport", "tech"]}
    assert table.where == ["sport/1.txt", "sport/2.txt", "tech/1.txt"]


def test_a_folder_without_class_folders_is_refused(tmp_path):
    write(tmp_path, "a.txt", "text")
    with pytest.raises(InputError, match="no rows"):
        read_table(str(tmp_path), ["text", "label"])


@given(st.lists(st.sampled_from("abcdef")))
def test_deduplication_keeps_each_text_where_it_first_stood(texts):
    kept = deduplicate(texts)
    assert kept == sorted(texts.index(text) for text in set(texts))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.floats(0, 1))
def test_a_split_sends_each_text_where_its_hash_says(texts, fraction):
    train, heldout = split_by_content(texts, fraction)
    assert sorted(train + heldout) == list(range(len(texts)))
    for side, is_heldout in ((train, False), (heldout, True)):
        for i in side:
            leading = int(hashlib.sha256(texts[i].encode()).hexdigest()[:16], 16)
            assert (leading / 2**64 < fraction) is is_heldout


def test_about_the_given_fraction_is_held_out():
    train, heldout = split_by_content([str(i) for i in range(10_000)], 0.1)
    # five standard deviations of a binomial: sqrt(10,000 x 0.1 x 0.9) = 30
    assert abs(len(heldout) - 1000) < 150
    assert len(train) + len(heldout) == 10_000


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_is_between_nothing_and_everything(fraction):
    with pytest.raises(InputError, match="must lie in"):
        split_by_content(["a"], fraction)
