"""A file as one stream of bytes, cut into rows: how byte-level models read enwik8."""

import bz2
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from roformer_jax.data.files import resolve
from roformer_jax.data.tokenizer import FIRST_BYTE_ID
from roformer_jax.errors import InputError
from roformer_jax.typing import UInt8

UNPACK: Mapping[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".bz2": bz2.decompress}


def read_stream(path: str, limit: int | None = None) -> UInt8[np.ndarray, "bytes"]:
    """Returns the bytes of a file, unpacked where its name ends in .gz or .bz2; the first `limit` of them.

    Raises:
        InputError: no such file, unreadable, damaged, empty, or shorter than `limit`.
    """
    file = resolve(path)
    if file.is_dir():
        raise InputError(f"{path} is a folder; a stream of bytes is one file")
    stream = np.frombuffer(_unpacked(file), np.uint8)
    if not stream.size:
        raise InputError(f"{path}: the file is empty")
    if limit is not None and stream.size < limit:
        raise InputError(f"{path}: {stream.size:,} bytes where {limit:,} were asked for")
    return stream[:limit]


def stream_rows(stream: UInt8[np.ndarray, "bytes"], length: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields `ids` and `segment_ids`, int32 [length], of one row after another; a last, shorter piece is left out."""
    for start in range(0, len(stream) - length + 1, length):
        ids = stream[start : start + length].astype(np.int32) + FIRST_BYTE_ID
        yield {"ids": ids, "segment_ids": np.ones(length, np.int32)}


def stream_digest(stream: UInt8[np.ndarray, "bytes"]) -> str:
    """sha256 of the bytes."""
    return hashlib.sha256(stream).hexdigest()


def _unpacked(file: Path) -> bytes:
    """The file's bytes, unpacked by its suffix."""
    try:
        packed = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        return UNPACK.get(file.suffix, bytes)(packed)
    except (EOFError, ValueError, OSError, zlib.error) as error:
        raise InputError(f"{file}: damaged {file.suffix} file: {error}") from error
