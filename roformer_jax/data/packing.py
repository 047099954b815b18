"""Packing sequences of many lengths into rows of one length, so that hardly a position is padding.

Every row is `ids` with `segment_ids` beside it (1, 2, ... for the sequences of the row, 0 for padding); attention stays
within a segment and positions restart with it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.errors import InputError
from roformer_jax.typing import Int, Shaped

Row = dict[str, np.ndarray]
# Items packed together. Longer windows fill rows no better: a window leaves a few dozen rows unfilled.
WINDOW = 65_536
# Items of at most this part of a row count as short.
SHORT = 4


def pack(lengths: Sequence[int] | Int[np.ndarray, "items"], capacity: int) -> list[Int[np.ndarray, "_"]]:
    """Best-fit bin packing: each row's item indices, ascending; every item is in exactly one row.

    Items are taken in windows of `WINDOW`, the longer ones by decreasing length, then the short ones in a fixed random
    order (by length they would fill some rows with dozens of tiny examples and others with a few, and a batch of rows
    is to be a fair sample). Each goes to the row with the least room that still holds it: the lowest set bit, at or
    above the item's length, of an integer whose bit r says that some row has r tokens left.

    Raises:
        InputError: a length below 1 or above `capacity`.
    """
    lengths = np.asarray(lengths, np.int64)
    outside = np.flatnonzero((lengths < 1) | (lengths > capacity))
    if outside.size:
        raise InputError(
            f"item {outside[0]} has length {lengths[outside[0]]}; packing takes 1 to {capacity} (the row's length)"
        )
    rows = []
    for start in range(0, len(lengths), WINDOW):
        row_of_item = _pack_window(lengths[start : start + WINDOW], capacity)
        by_row = np.argsort(row_of_item, kind="stable")
        ends = np.cumsum(np.bincount(row_of_item)).tolist()
        rows.extend(by_row[a:b] + start for a, b in zip([0, *ends], ends, strict=False))
    return rows


def pack_documents(documents: list[Int[np.ndarray, "_"]], tokenizer: Tokenizer, length: int) -> Iterator[Row]:
    """Cuts documents into pieces, makes each [CLS] piece [SEP], and packs the pieces; empty documents are dropped.

    Args:
        documents: token ids without special tokens.
        tokenizer: gives the special ids.
        length: tokens of a row.

    Yields:
        `ids` and `segment_ids`, int32[length].

    Raises:
        InputError: an id outside the vocabulary, or `length` below 3.
    """
    _check_ids(documents, tokenizer)
    if length < 3:
        raise InputError(f"rows of {length} tokens cannot hold [CLS], a token and [SEP]")
    size = length - 2
    pieces = [document[a : a + size] for document in documents for a in range(0, len(document), size)]
    cls, sep = _special_ids(tokenizer)
    for members in pack([len(piece) + 2 for piece in pieces], length):
        row, _ = _fill_row([np.concatenate([cls, pieces[i], sep]) for i in members], tokenizer, length)
        yield row


def pack_examples(
    first: list[Int[np.ndarray, "_"]],
    second: list[Int[np.ndarray, "_"]] | None,
    labels: Shaped[np.ndarray, "examples"] | None,
    tokenizer: Tokenizer,
    length: int,
) -> Iterator[Row]:
    """Makes each example [CLS] A [SEP] or [CLS] A [SEP] B [SEP], truncated longest-first, and packs whole examples.

    Args:
        first: token ids of A, without special tokens.
        second: token ids of B, or None for single texts.
        labels: int32 classes or float32 scores; None when there are none.
        tokenizer: gives the special ids.
        length: tokens of a row, and the most an example keeps.

    Yields:
        `ids`, `segment_ids`, `token_type_ids`: int32[length], type 1 for B and its [SEP];
        `starts` int32[E], where each example's [CLS] stands; `labels` [E] (0 where absent); `example_ids` int32[E],
        the place in the input from 1 on (0: no example). E is the most examples any row of this set holds.

    Raises:
        InputError: an id outside the vocabulary, or a `length` that leaves no room for text.
    """
    _check_ids(first, tokenizer)
    _check_ids(second or [], tokenizer)
    specials = 2 if second is None else 3
    if length <= specials:
        raise InputError(f"rows of {length} tokens leave no room for text beside {specials} special tokens")
    kept_first, kept_second = _truncate_lengths(first, second, length - specials)
    rows = pack(kept_first + kept_second + specials, length)
    most = max((len(members) for members in rows), default=0)
    labels = np.zeros(len(first), np.int32) if labels is None else labels
    cls, sep = _special_ids(tokenizer)
    for members in rows:
        a = [np.concatenate([cls, first[i][: kept_first[i]], sep]) for i in members]
        b = [np.concatenate([second[i][: kept_second[i]], sep]) if second else sep[:0] for i in members]
        pairs = list(zip(a, b, strict=True))
        row, starts = _fill_row([np.concatenate(pair) for pair in pairs], tokenizer, length)
        token_types = np.concatenate([np.repeat([0, 1], [len(i), len(j)]) for i, j in pairs])
        yield row | {
            "token_type_ids": _padded(token_types, length, 0, np.int32),
            "starts": _padded(starts, most, 0, np.int32),
            "labels": _padded(labels[members], most, 0, labels.dtype),
            "example_ids": _padded(members + 1, most, 0, np.int32),
        }


def _truncate_lengths(
    first: list[np.ndarray], second: list[np.ndarray] | None, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Kept lengths of A and B when tokens are popped off the longer one (B on a tie, as in BERT) until both fit.

    Closed form: if one of them fits in its half the other gets the rest; otherwise each keeps half, A the odd token.
    """
    a = np.array([len(ids) for ids in first], np.int64)
    if second is None:
        return np.minimum(a, budget), np.zeros_like(a)
    b = np.array([len(ids) for ids in second], np.int64)
    half_b = budget // 2
    half_a = budget - half_b
    return np.minimum(a, np.maximum(half_a, budget - b)), np.minimum(b, np.maximum(half_b, budget - a))


def _pack_window(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each item of one window."""
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    sizes = lengths[shuffled]
    order = shuffled[np.argsort(np.where(sizes > capacity // SHORT, -sizes, 0), kind="stable")]
    row_of_item = np.empty(len(lengths), np.int64)
    rows_with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    num_rows = 0
    rows = []
    for size in lengths[order].tolist():
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, num_rows
            num_rows += 1
        if room > size:
            rows_with_room[room - size].append(row)
            rooms |= 1 << (room - size)
        rows.append(row)
    row_of_item[order] = rows
    return row_of_item


def _fill_row(sequences: list[np.ndarray], tokenizer: Tokenizer, length: int) -> tuple[Row, np.ndarray]:
    """A row of sequences one behind another, a segment each, then padding; and where each begins."""
    sizes = [len(sequence) for sequence in sequences]
    ids = np.concatenate(sequences)
    segment_ids = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    row = {
        "ids": _padded(ids, length, tokenizer.pad_id, np.int32),
        "segment_ids": _padded(segment_ids, length, 0, np.int32),
    }
    return row, np.cumsum([0, *sizes[:-1]])


def _padded(values: np.ndarray, size: int, fill: int, dtype: np.dtype | type) -> np.ndarray:
    """`values` and then `fill`, up to `size`."""
    padded = np.full(size, fill, dtype)
    padded[: len(values)] = values
    return padded


def _special_ids(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] and [SEP], each as a sequence of one."""
    return np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)


def _check_ids(sequences: list[np.ndarray], tokenizer: Tokenizer) -> None:
    """Refuses ids outside [0, V): the embedding would clamp them silently."""
    for i, ids in enumerate(sequences):
        if ids.size and not (0 <= ids.min() and ids.max() < tokenizer.vocab_size):
            bad = ids[(ids < 0) | (ids >= tokenizer.vocab_size)][0]
            raise InputError(f"sequence {i} holds id {bad}; the vocabulary has ids 0 to {tokenizer.vocab_size - 1}")
