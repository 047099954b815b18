import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.data.packing import WINDOW, pack, pack_documents, pack_examples
from roformer_jax.errors import InputError


def id_arrays(max_size):
    ids = st.lists(st.integers(5, 99), max_size=max_size)
    return ids.map(lambda values: np.array(values, np.int32))


def pop_the_longer(a: list, b: list, budget: int) -> tuple[list, list]:
    """BERT's _truncate_seq_pair, token by token."""
    a, b = list(a), list(b)
    while len(a) + len(b) > budget:
        (a if len(a) > len(b) else b).pop()
    return a, b


def best_fit_decreasing(lengths, capacity):
    """The textbook algorithm, quadratic."""
    rows, rooms = [], []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [r for r in range(len(rows)) if rooms[r] >= lengths[item]]
        if not fitting:
            rows.append([])
            rooms.append(capacity)
            fitting = [len(rows) - 1]
        best = min(fitting, key=lambda r: rooms[r])
        rows[best].append(item)
        rooms[best] -= lengths[item]
    return rows


@settings(deadline=None)
@given(st.data())
def test_every_item_is_in_exactly_one_row_and_no_row_overflows(data):
    capacity = data.draw(st.integers(1, 40))
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=60))
    rows = pack(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)
    assert all(row.tolist() == sorted(row) for row in rows)


@settings(deadline=None)
@given(st.lists(st.integers(7, 24), max_size=60))
def test_items_over_a_quarter_of_a_row_are_packed_as_textbook_best_fit_decreasing(lengths):
    # Which of two rows with equal room takes an item does not change the multiset of rooms.
    rooms = sorted(24 - sum(lengths[i] for i in row) for row in pack(lengths, 24))
    assert rooms == sorted(24 - sum(lengths[i] for i in row) for row in best_fit_decreasing(lengths, 24))


def test_several_windows_are_packed_one_after_another():
    lengths = np.random.default_rng(0).integers(1, 65, 2 * WINDOW + 7)
    rows = pack(lengths, 64)
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(len(lengths)))
    assert max(lengths[row].sum() for row in rows) <= 64
    # Uniform lengths pack almost perfectly.
    assert lengths.sum() / (64 * len(rows)) > 0.99


def test_short_items_are_mixed_so_that_rows_hold_alike_numbers_of_them():
    # Lengths like the phrases of SST-2; by decreasing length, the rows would hold 4 to 42 items, +- 7.
    lengths = np.random.default_rng(2).geometric(1 / 11, 4000).clip(1, 60) + 2
    rows = pack(lengths, 128)
    counts, textbook = ([len(row) for row in packed] for packed in (rows, best_fit_decreasing(lengths, 128)))
    assert lengths.sum() / (128 * len(rows)) > 0.98
    assert np.std(counts) < np.std(textbook) / 2


def test_packing_is_deterministic():
    lengths = np.random.default_rng(1).integers(1, 65, 1000)
    first, second = pack(lengths, 64), pack(lengths.tolist(), 64)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("length", [0, -3, 11])
def test_lengths_that_fit_no_row_are_refused(length):
    with pytest.raises(InputError, match=f"item 1 has length {length}; packing takes 1 to 10"):
        pack([5, length], 10)


@settings(deadline=None, max_examples=50)
@given(documents=st.lists(id_arrays(30), max_size=12), length=st.integers(3, 20))
def test_document_rows_hold_every_token_once_between_cls_and_sep(tokenizer, documents, length):
    pieces = []
    for row in pack_documents(documents, tokenizer, length):
        assert row["ids"].shape == row["segment_ids"].shape == (length,)
        assert row["ids"].dtype == row["segment_ids"].dtype == np.int32
        segments = row["segment_ids"]
        assert np.array_equal(segments[segments > 0], np.sort(segments[segments > 0]))
        assert np.all(row["ids"][segments == 0] == tokenizer.pad_id)
        for segment in range(1, segments.max() + 1):
            ids = row["ids"][segments == segment]
            assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
            pieces.append(tuple(ids[1:-1].tolist()))
    size = length - 2
    expected = [tuple(d[a : a + size].tolist()) for d in documents for a in range(0, len(d), size)]
    assert sorted(pieces) == sorted(expected)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_example_rows_hold_every_example_once_truncated_like_bert(tokenizer, data):
    count = data.draw(st.integers(1, 10))
    length = data.draw(st.integers(4, 24))
    first = [data.draw(id_arrays(20)) for _ in range(count)]
    second = [data.draw(id_arrays(20)) for _ in range(count)] if data.draw(st.booleans()) else None
    labels = np.arange(count, dtype=np.int32) * 7
    seen = []
    rows = list(pack_examples(first, second, labels, tokenizer, length))
    for row in rows:
        for slot, (start, label, i) in enumerate(zip(row["starts"], row["labels"], row["example_ids"], strict=True)):
            if i == 0:
                assert (start, label) == (0, 0)
                continue
            i -= 1
            seen.append(int(i))
            assert label == 7 * i
            inside = row["segment_ids"] == slot + 1
            assert np.flatnonzero(inside)[0] == start
            cls, sep = tokenizer.cls_id, tokenizer.sep_id
            if second is None:
                expected = [cls, *first[i][: length - 2], sep]
                types = [0] * len(expected)
            else:
                a, b = pop_the_longer(first[i], second[i], length - 3)
                expected = [cls, *a, sep, *b, sep]
                types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
            assert row["ids"][inside].tolist() == expected
            assert row["token_type_ids"][inside].tolist() == types
        padding = row["segment_ids"] == 0
        assert np.all(row["ids"][padding] == tokenizer.pad_id)
        assert not row["token_type_ids"][padding].any()
    assert sorted(seen) == list(range(count))
    most = max(int((row["example_ids"] > 0).sum()) for row in rows)
    assert {row["example_ids"].shape for row in rows} == {(most,)}


def test_scores_stay_float32_and_absent_labels_are_zero(tokenizer):
    first = [np.array([7, 8], np.int32)]
    (row,) = pack_examples(first, None, np.array([2.5], np.float32), tokenizer, 8)
    assert row["labels"].dtype == np.float32
    assert row["labels"].tolist() == [2.5]
    (row,) = pack_examples(first, None, None, tokenizer, 8)
    assert row["labels"].dtype == np.int32
    assert row["labels"].tolist() == [0]


def test_empty_texts_are_examples_but_empty_documents_are_nothing(tokenizer):
    nothing = np.zeros(0, np.int32)
    (row,) = pack_examples([nothing], [nothing], None, tokenizer, 6)
    assert row["ids"].tolist() == [2, 3, 3, 0, 0, 0]
    assert list(pack_documents([nothing, nothing], tokenizer, 6)) == []


@pytest.mark.parametrize("bad", [-1, 200, 10**9])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, bad):
    sequences = [np.array([5], np.int32), np.array([6, bad], np.int32)]
    with pytest.raises(InputError, match=f"sequence 1 holds id {bad}; the vocabulary has ids 0 to 149"):
        next(pack_documents(sequences, tokenizer, 8))
    with pytest.raises(InputError, match=f"id {bad}"):
        next(pack_examples(sequences[:1], sequences[1:], None, tokenizer, 8))


def test_rows_without_room_for_text_are_refused(tokenizer):
    ids = [np.array([5], np.int32)]
    with pytest.raises(InputError, match="rows of 2 tokens cannot hold"):
        next(pack_documents(ids, tokenizer, 2))
    with pytest.raises(InputError, match="rows of 3 tokens leave no room for text beside 3"):
        next(pack_examples(ids, ids, None, tokenizer, 3))
