"""A file as one stream of bytes, cut into rows: how byte-level models read enwik8."""

import hashlib
from collections.abc import Iterator

import numpy as np

from roformer_jax.data.files import read_bytes, resolve
from roformer_jax.data.tokenizer import FIRST_BYTE_ID
from roformer_jax.errors import InputError
from roformer_jax.typing import UInt8

ZIP = b"PK\x03\x04"  # how an archive begins


def read_stream(path: str, limit: int | None = None) -> UInt8[np.ndarray, "bytes"]:
    """Returns the bytes of a file, unpacked where its name ends in .gz or .bz2; the first `limit`, and reads no more.

    Raises:
        InputError: no such file, unreadable, damaged, empty, a zip archive, or shorter than `limit`; without a limit,
            one that unpacks to more than any text.
    """
    file = resolve(path)
    if file.is_dir():
        raise InputError(f"{path} is a folder; a stream of bytes is one file")
    stream = np.frombuffer(read_bytes(file, limit), np.uint8)
    if not stream.size:
        raise InputError(f"{path}: the file is empty")
    if stream[: len(ZIP)].tobytes() == ZIP:
        raise InputError(f"{path}: a zip archive; unpack it first, and name the file that was in it")
    if limit is not None and stream.size < limit:
        raise InputError(f"{path}: {stream.size:,} bytes where {limit:,} were asked for")
    return stream


def stream_rows(stream: UInt8[np.ndarray, "bytes"], length: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields `ids` and `segment_ids`, int32 [length], of one row after another; a last, shorter piece is left out."""
    for start in range(0, len(stream) - length + 1, length):
        ids = stream[start : start + length].astype(np.int32) + FIRST_BYTE_ID
        yield {"ids": ids, "segment_ids": np.ones(length, np.int32)}


def stream_digest(stream: UInt8[np.ndarray, "bytes"]) -> str:
    """sha256 of the bytes."""
    return hashlib.sha256(stream).hexdigest()
