"""Documents and tables from what users have: text files, CSV, TSV, JSON lines, folders, installed packages, TFDS.

A path is a string: a file or a folder; `package:NAME/SUB` for files of an installed package; `tfds:NAME[:SPLIT]` for a
data set of TensorFlow Datasets (split "train" unless given). Everything is read strictly: what cannot be understood
is an InputError that names file and line, never a guess. A link stands for what it leads to; links to folders inside a
folder of documents are not entered, so that no loop of them is endless.
"""

import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from roformer_jax.data.files import (
    MAX_CHARACTERS,
    STANDARD_INPUT,
    check_length,
    read_document,
    read_standard_input,
    read_text,
    resolve,
    text_suffix,
)
from roformer_jax.data.tfds_source import read_tfds
from roformer_jax.errors import InputError

TFDS_PREFIX = "tfds:"
PIPE = "-"  # the path of the standard input


class Table(NamedTuple):
    """Columns of text, row by row, and where each row came from.

    Attributes:
        columns: name -> one str a row.
        where: "train.tsv:17" of each row, for error messages.
    """

    columns: dict[str, list[str]]
    where: list[str]


Row = tuple[str, list[Any]]  # (where, fields): text; in JSON lines any value, and those of wanted columns are checked
RowParser = Callable[[Path, str], Iterator[Row]]  # the first row holds the column names


def read_texts(path: str, *, pattern: str = "**/*.txt", column: str = "text", encoding: str = "utf-8") -> list[str]:
    """Reads documents.

    Args:
        path: a folder (one document a file), a .txt file (one document), a table or `tfds:` (one document a row).
        pattern: which files of a folder, read in the order of their relative paths.
        column: which column of a table.
        encoding: of the files.

    Raises:
        InputError: missing, empty, too long, or not text in `encoding`; the message names file and line.
    """
    if path.startswith(TFDS_PREFIX):
        return read_table(path, [column]).columns[column]
    root = resolve(path)
    if root.is_dir():
        files = sorted(file for file in root.glob(pattern) if not file.is_dir())
        if not files:
            raise InputError(f"{path}: no file of this folder matches {pattern!r}")
        return [read_document(file, encoding) for file in files]
    if text_suffix(root) in PARSERS:
        return read_table(path, [column], encoding=encoding).columns[column]
    return [read_document(root, encoding)]


def read_table(
    path: str,
    columns: Sequence[str],
    *,
    encoding: str = "utf-8",
    header: Sequence[str] | None = None,
    drop_short_rows: bool = False,
) -> Table:
    """Reads the named columns of a .csv (RFC 4180), .tsv (no quoting), .jsonl, `tfds:`, or folder of class folders.

    A .json is read as .jsonl: an object a line. "-" is the standard input: lines of the wanted columns with tabs
    between them, and no header line. Blank lines are skipped. In a folder of class folders, "label" is the class
    folder's name and "text" a file of it.

    Args:
        path: see the module's docstring; .gz and .bz2 files are unpacked.
        columns: names of the columns wanted.
        encoding: of the files.
        header: column names of a file that has no header line.
        drop_short_rows: leave out, and log, rows with too few fields: for files known to be broken.

    Raises:
        InputError: missing, empty, a column missing, a row with another number of fields, or not text in `encoding`.
    """
    if path.startswith(TFDS_PREFIX):
        name, _, split = path.removeprefix(TFDS_PREFIX).partition(":")
        split = split or "train"
        values = read_tfds(name, split, columns)
        count = len(next(iter(values.values())))
        return Table(values, [f"{TFDS_PREFIX}{name}:{split}, record {i}" for i in range(count)])
    if path == PIPE:
        return _collect(_tsv_rows(STANDARD_INPUT, read_standard_input(encoding)), list(columns), columns, path)
    root = resolve(path)
    rows = _class_folder_rows(root, encoding) if root.is_dir() else _parser(root)(root, read_text(root, encoding))
    names = list(header) if header else next(rows, ("", []))[1]
    if drop_short_rows:
        rows = _without_short_rows(rows, len(names))
    return _collect(rows, names, columns, path)


def rows_of(table: Table, indices: Sequence[int]) -> Table:
    """Some rows of a table, in that order."""
    columns = {name: [values[i] for i in indices] for name, values in table.columns.items()}
    return Table(columns, [table.where[i] for i in indices])


def deduplicate(texts: Sequence[str]) -> list[int]:
    """Indices of the first occurrence of every distinct text, in order."""
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    return list(first.values())


def split_by_content(texts: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Splits indices into (train, held out), about `fraction` of them held out, by the sha256 of each text.

    Where a text goes depends on nothing but itself: whatever else is in the corpus, a text held out of pretraining is
    held out of fine-tuning too, and equal texts are never on both sides.

    Raises:
        InputError: `fraction` is not in [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"held-out fraction must lie in [0, 1], got {fraction}")
    sides: tuple[list[int], list[int]] = ([], [])
    for i, text in enumerate(texts):
        digest = hashlib.sha256(text.encode()).digest()
        sides[int.from_bytes(digest[:8], "big") < fraction * 2**64].append(i)
    return sides


def _parser(path: Path) -> RowParser:
    """The row parser for the file's suffix."""
    suffix = text_suffix(path)
    if suffix not in PARSERS:
        raise InputError(
            f"{path}: {suffix or 'no'} suffix; a table is one of {', '.join(PARSERS)} (optionally .gz or .bz2)"
        )
    return PARSERS[suffix]


def _without_short_rows(rows: Iterator[Row], width: int) -> Iterator[Row]:
    """The rows of at least `width` fields; says how many others there were."""
    dropped = []
    for where, fields in rows:
        if len(fields) < width:
            dropped.append(where)
        else:
            yield where, fields
    if dropped:
        logging.getLogger(__name__).warning("left out %d rows with too few fields: %s ...", len(dropped), dropped[0])


def _collect(rows: Iterator[Row], names: list[str], wanted: Sequence[str], path: str) -> Table:
    """Picks the wanted columns out of rows that must all have as many fields as there are names."""
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; the columns are {names}")
    repeated = [name for name in wanted if names.count(name) > 1]
    if repeated:
        raise InputError(f"{path}: more than one column {repeated[0]!r}; the columns are {names}")
    table = Table({name: [] for name in wanted}, [])
    positions = [names.index(name) for name in wanted]
    for where, fields in rows:
        if len(fields) != len(names):
            raise InputError(f"{where}: {len(fields)} fields where the header has {len(names)}")
        table.where.append(where)
        for name, position in zip(wanted, positions, strict=True):
            table.columns[name].append(check_length(_as_text(fields[position], name, where), where))
    if not table.where:
        raise InputError(f"{path}: no rows")
    return table


def _tsv_rows(path: Path, text: str) -> Iterator[Row]:
    """Lines split at tabs; quotes are ordinary characters, as in GLUE, where many rows have an odd number of them."""
    for number, line in enumerate(text.split("\n"), 1):
        if line:
            yield f"{path.name}:{number}", line.split("\t")


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    """RFC 4180: quoted fields may hold commas, doubled quotes and line breaks; `where` is the line a row begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(MAX_CHARACTERS + 1)  # the default of 131,072 is shorter than many articles
    try:
        line = 1
        for fields in reader:
            if fields:
                yield f"{path.name}:{line}", fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{line}: not valid CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _jsonl_rows(path: Path, text: str) -> Iterator[Row]:
    """One JSON object a line; the keys of the first line are the columns."""
    names: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise InputError(f"{where}: a JSON {type(record).__name__}, expected an object")
        if not names:
            names = list(record)
            yield where, names
        if record.keys() != set(names):
            raise InputError(f"{where}: keys {list(record)} where the first line has {names}")
        yield where, [record[name] for name in names]


def _as_text(value: object, name: str, where: str) -> str:
    """Strings and numbers as text; JSON can smuggle in lone surrogates, which no encoding can hold."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: {name!r} is {json.dumps(value)[:40]}, expected a string or a number")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {name!r} holds a lone surrogate, half of a character") from error
    return str(value)


def _class_folder_rows(root: Path, encoding: str) -> Iterator[Row]:
    """One row a file: its text, and the folder it lies in as its label."""
    yield str(root), ["text", "label"]
    for folder in sorted(folder for folder in root.iterdir() if folder.is_dir()):
        for file in sorted(folder.glob("*.txt")):
            yield f"{folder.name}/{file.name}", [read_document(file, encoding), folder.name]


PARSERS: dict[str, RowParser] = {".csv": _csv_rows, ".tsv": _tsv_rows, ".jsonl": _jsonl_rows, ".json": _jsonl_rows}
