"""Texts and their translations from two line-aligned files, and packing both sides of the pairs into the same rows."""

from collections.abc import Iterator, Sequence

import numpy as np

from roformer_jax.data.files import check_length, read_standard_input, read_text, resolve
from roformer_jax.data.packing import Row
from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.errors import InputError
from roformer_jax.typing import Bool, Int

OPEN_ROWS = 128  # rows that a pair may go to: twice as many fill half a percent more places


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 text file, plain or packed (.gz, .bz2), or of the standard input, "-".

    Raises:
        InputError: no such file; not UTF-8 (file, line, byte) or otherwise unreadable; an empty line (file, line).
    """
    text = read_standard_input() if path == "-" else read_text(resolve(path))
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise InputError(f"{path}:{number}: an empty line; every line is to be a sentence")
        check_length(line, f"{path}:{number}")
    return lines


def read_pairs(source: str, target: str) -> tuple[list[str], list[str]]:
    """The lines of two files, of which each of the first is translated by the same line of the second.

    Raises:
        InputError: what `read_lines` refuses, or different numbers of lines (both files, both numbers).
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise InputError(
            f"{source} has {len(sources):,} lines and {target} has {len(targets):,}: line n of the one is to be the "
            "translation of line n of the other"
        )
    return sources, targets


def too_long(
    sources: Sequence[Int[np.ndarray, "_"]], targets: Sequence[Int[np.ndarray, "_"]], length: int
) -> Bool[np.ndarray, "pairs"]:
    """Which pairs have a side that, with its special token, does not fit a row of `length`."""
    longest = np.maximum(_lengths(sources), _lengths(targets))
    return longest + 1 > length


def pack_pairs(
    sources: Sequence[Int[np.ndarray, "_"]], targets: Sequence[Int[np.ndarray, "_"]], tokenizer: Tokenizer, length: int
) -> Iterator[Row]:
    """Packs pairs that fit into rows of two sides: what the encoder reads, and what the decoder reads and predicts.

    Args:
        sources: token ids of each source, without special tokens.
        targets: those of its translation.
        tokenizer: gives the special ids.
        length: tokens of either side of a row.

    Yields:
        `source_ids`, of each source with [SEP] behind it; `ids`, of each target with [CLS] before it; `labels`, of each
        target with [SEP] behind it: what follows each of `ids`. `source_segment_ids` and `segment_ids` number the pairs
        of the row from 1; 0 is padding. All are int32 [length].
    """
    cls, sep = [np.array([token], np.int32) for token in (tokenizer.cls_id, tokenizer.sep_id)]
    sizes = np.stack([_lengths(sources), _lengths(targets)], axis=1) + 1
    for members in pack_two_sides(sizes, length):
        texts = {
            "source_ids": [np.concatenate([sources[i], sep]) for i in members],
            "ids": [np.concatenate([cls, targets[i]]) for i in members],
            "labels": [np.concatenate([targets[i], sep]) for i in members],
        }
        row = {name: _filled(np.concatenate(parts), length, tokenizer.pad_id) for name, parts in texts.items()}
        numbers = np.arange(1, len(members) + 1)
        for side, name in enumerate(("source_segment_ids", "segment_ids")):
            row[name] = _filled(np.repeat(numbers, sizes[members, side]), length, 0)
        yield row


def pack_two_sides(sizes: Int[np.ndarray, "pairs 2"], capacity: int) -> Iterator[Int[np.ndarray, "_"]]:
    """Best fit with a bounded number of open rows: yields each row's pairs; every pair is in exactly one.

    Pairs come in a fixed random order, so that every row is a fair sample. Each goes to the open row with the least
    room in which both of its sides fit. Where it fits none, the fullest makes place for a new one.
    """
    rooms = np.full((OPEN_ROWS, 2), capacity)
    rows: list[list[int]] = [[] for _ in range(OPEN_ROWS)]
    for pair in np.random.default_rng(0).permutation(len(sizes)):
        left = (rooms - sizes[pair]).min(axis=1)
        fitting = np.flatnonzero(left >= 0)
        if fitting.size:
            row = fitting[left[fitting].argmin()]
        else:
            row = rooms.sum(axis=1).argmin()
            yield np.array(rows[row])
            rows[row], rooms[row] = [], capacity
        rows[row].append(pair)
        rooms[row] -= sizes[pair]
    yield from (np.array(row) for row in rows if row)


def _lengths(texts: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(ids) for ids in texts], np.int64)


def _filled(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    return np.pad(values, (0, length - len(values)), constant_values=fill).astype(np.int32)
