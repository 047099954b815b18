"""The on-disk cache of packed rows: built once, found again by what it was built from (the one array_record file).

A cache is a folder: rows.array_record (one record a row: the fields' bytes, one after another) and metadata.json (the
key, the fields, the least and greatest value of each, the counts). It is built in a temporary folder beside it and
renamed, so that it is there completely or not at all.
"""

import contextlib
import hashlib
import json
import math
import operator
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from roformer_jax.data.bounds import Bounds, Ranges, joined, ranges_of, violation
from roformer_jax.errors import InputError

Row = dict[str, np.ndarray]
Field = tuple[str, np.dtype, tuple[int, ...]]  # name, dtype, shape

ROWS_FILE = "rows.array_record"
METADATA_FILE = "metadata.json"
# One record a chunk: a row is read without unpacking its neighbours.
WRITER_OPTIONS = "group_size:1"
# No read-ahead: rows are read in random order.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
REBUILD = "delete the folder to build it again"
# Age in seconds beyond which a temporary folder belongs to a killed process, not to one still building.
ABANDONED_AFTER = 24 * 3600


class RowStore:
    """Rows on disk, by index; close it or use it as a context manager.

    Attributes:
        fingerprint: sha256 of the key the rows were built from, in hexadecimal.
        metadata: the content of metadata.json.
        packing: real tokens / all tokens.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.fingerprint = fingerprint
        self._file = folder / ROWS_FILE
        self.metadata, self._fields = _read_metadata(folder / METADATA_FILE, fingerprint)
        self.packing = self.metadata["real_tokens"] / self.metadata["tokens"]
        self._record_size = sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in self._fields)
        try:
            self._reader = array_record_module.ArrayRecordReader(str(self._file), READER_OPTIONS)
            records = self._reader.num_records()
            if not self._reader.ok():
                self._reader.close()  # raises what is wrong
        except RuntimeError as error:
            raise InputError(f"{self._file}: damaged: {error}; {REBUILD}") from error
        if records != len(self):
            self.close()
            raise InputError(f"{self._file}: {records} records where {METADATA_FILE} says {len(self)}; {REBUILD}")

    def __len__(self) -> int:
        return self.metadata["rows"]

    def __getitem__(self, index: int) -> Row:
        """Row `index`; the arrays are read-only views of one record.

        Raises:
            IndexError: no such row.
            InputError: the record is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        try:
            record = self._reader.read([index])[0]
        except RuntimeError as error:
            raise InputError(self._damaged(index, str(error))) from error
        if len(record) != self._record_size:
            raise InputError(self._damaged(index, f"{len(record)} bytes, expected {self._record_size}"))
        row, offset = {}, 0
        for name, dtype, shape in self._fields:
            count = math.prod(shape)
            row[name] = np.frombuffer(record, dtype, count, offset).reshape(shape)
            offset += count * dtype.itemsize
        return row

    def close(self) -> None:
        """Closes the file; rows cannot be read any more."""
        self._reader.close()

    def __enter__(self) -> "RowStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damaged(self, index: int, problem: str) -> str:
        return f"{self._file}: record {index} is damaged: {problem}; {REBUILD}"


def cached_rows(
    cache_dir: str | Path, key: dict[str, Any], build: Callable[[], Iterable[Row]], bounds: Bounds
) -> RowStore:
    """Opens the rows that `key` stands for, building them first if they are not there.

    Args:
        cache_dir: holds one folder a key, named by the first 16 digits of the key's sha256.
        key: JSON values: everything the rows depend on (sources, tokenizer, length, ...).
        build: makes the rows; all have the same fields, dtypes and shapes, among them `segment_ids` (0 = padding).
        bounds: what each field may hold.

    Raises:
        InputError: no rows, values out of bounds, a folder that cannot be written, or a damaged cache.
    """
    fingerprint = _fingerprint(key)
    folder = Path(cache_dir) / fingerprint[:16]
    if not folder.exists():
        try:
            _build(folder, key, build, bounds)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error}") from error
    store = RowStore(folder, fingerprint)
    problem = violation(store.metadata["ranges"], bounds)
    if problem:
        store.close()
        raise InputError(f"{folder}: {problem}; {REBUILD}")
    return store


def _fingerprint(key: dict[str, Any]) -> str:
    """sha256 of a key, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _build(folder: Path, key: dict[str, Any], build: Callable[[], Iterable[Row]], bounds: Bounds) -> None:
    """Writes the cache beside its place and moves it there; when another process was faster, its rows are as good."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in folder.parent.glob(f"{folder.name}.tmp-*"):
        if time.time() - abandoned.stat().st_mtime > ABANDONED_AFTER:
            shutil.rmtree(abandoned, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        metadata = {"key": key} | _write_rows(temporary / ROWS_FILE, build(), bounds)
        (temporary / METADATA_FILE).write_text(json.dumps(metadata, indent=1), encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(path: Path, rows: Iterable[Row], bounds: Bounds) -> dict[str, Any]:
    """Checks and writes the records; returns the fields, their ranges and the counts."""
    fields: list[dict[str, Any]] = []
    ranges: Ranges = {}
    count = real_tokens = tokens = 0
    writer = array_record_module.ArrayRecordWriter(str(path), WRITER_OPTIONS)
    try:
        for row in rows:
            row_fields = [{"name": n, "dtype": v.dtype.str, "shape": list(v.shape)} for n, v in row.items()]
            fields = fields or row_fields
            if row_fields != fields:
                raise ValueError(f"row {count} has fields {row_fields}, the first row has {fields}")
            row_ranges = ranges_of(row)
            problem = violation(row_ranges, bounds)
            if problem:
                raise InputError(f"packed row {count}: {problem}")
            ranges = joined(ranges or row_ranges, row_ranges)
            with _as_os_error():
                writer.write(b"".join(value.tobytes() for value in row.values()))
            count += 1
            real_tokens += int(np.count_nonzero(row["segment_ids"]))
            tokens += row["segment_ids"].size
    finally:
        with _as_os_error():
            writer.close()
    if count == 0:
        raise InputError("no rows to train on: the texts hold no tokens")
    return {"fields": fields, "ranges": ranges, "rows": count, "real_tokens": real_tokens, "tokens": tokens}


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Raises what array_record tells as a RuntimeError, such as a full disk, as the OSError that it is."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _read_metadata(path: Path, fingerprint: str) -> tuple[dict[str, Any], list[Field]]:
    """The cache's description of itself, and its fields; refused where it is not of the key with this fingerprint."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        metadata = {name: metadata[name] for name in ("key", "fields", "ranges", "rows", "real_tokens", "tokens")}
        fields = [(str(f["name"]), np.dtype(f["dtype"]), tuple(map(int, f["shape"]))) for f in metadata["fields"]]
        if any(dtype.kind not in "iuf" for _, dtype, _ in fields):
            raise ValueError("a field that holds no numbers")
        if not all(math.isfinite(most - least) for least, most in metadata["ranges"].values()):
            raise ValueError("a range that is none")
        rows, real_tokens, tokens = (operator.index(metadata[name]) for name in ("rows", "real_tokens", "tokens"))
        if not (0 < rows <= tokens and 0 <= real_tokens <= tokens):
            raise ValueError("counts that cannot be")
        if _fingerprint(metadata["key"]) != fingerprint:
            raise ValueError("the key of other rows")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: damaged or missing ({error}); {REBUILD}") from error
    return metadata, fields
