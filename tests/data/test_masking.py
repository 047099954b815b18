import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.errors import InputError

VOCAB_SIZE = 150


def generator(seed=0):
    return np.random.Generator(np.random.Philox(key=seed))


def specials(tokenizer: Tokenizer) -> set[int]:
    return {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}


@st.composite
def rows(draw):
    """Any ids with any segments: packing never makes most of these, masking must hold for all."""
    length = draw(st.integers(1, 60))
    ids = draw(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=length, max_size=length))
    segment_ids = draw(st.lists(st.integers(0, 3), min_size=length, max_size=length))
    return np.array(ids, np.int32), np.array(segment_ids, np.int32)


def words_of(ids, segment_ids, tokenizer):
    """Word = a maskable piece and the continuations right behind it, position by position."""
    words, previous = [], -2
    for i in range(len(ids)):
        if segment_ids[i] == 0 or int(ids[i]) in specials(tokenizer):
            continue
        if tokenizer.is_continuation[ids[i]] and previous == i - 1:
            words[-1].append(i)
        else:
            words.append([i])
        previous = i
    return words


@settings(deadline=None)
@given(row=rows(), probability=st.floats(0.001, 1), whole_word=st.booleans(), seed=st.integers(0, 2**32))
def test_only_ordinary_tokens_are_chosen_and_labels_are_the_originals(tokenizer, row, probability, whole_word, seed):
    ids, segment_ids = row
    config = MaskingConfig(probability=probability, whole_word=whole_word)
    masked = mask_row(ids, segment_ids, config=config, tokenizer=tokenizer, rng=generator(seed))
    chosen = masked["masked_positions"][masked["masked_weights"] == 1]
    assert len(set(chosen.tolist())) == len(chosen)
    assert np.all(segment_ids[chosen] > 0)
    assert not specials(tokenizer) & set(ids[chosen].tolist())
    assert np.array_equal(masked["masked_labels"][: len(chosen)], ids[chosen])
    untouched = np.delete(np.arange(len(ids)), chosen)
    assert np.array_equal(masked["ids"][untouched], ids[untouched])
    inputs = masked["ids"][chosen]
    invented = inputs[(inputs != ids[chosen]) & (inputs != tokenizer.mask_id)]
    assert not (specials(tokenizer) | {tokenizer.unk_id}) & set(invented.tolist())


@settings(deadline=None)
@given(row=rows(), probability=st.floats(0.001, 1))
def test_exactly_the_rounded_share_is_chosen(tokenizer, row, probability):
    ids, segment_ids = row
    masked = mask_row(
        ids, segment_ids, config=MaskingConfig(probability=probability), tokenizer=tokenizer, rng=generator()
    )
    maskable = sum(len(word) for word in words_of(ids, segment_ids, tokenizer))
    expected = max(1, round(probability * maskable)) if maskable else 0
    assert masked["masked_weights"].sum() == expected
    slots = max(1, round(probability * len(ids)))
    assert all(masked[f"masked_{name}"].shape == (slots,) for name in ("positions", "labels", "weights"))


@settings(deadline=None)
@given(row=rows(), probability=st.floats(0.001, 1))
def test_whole_words_are_chosen_or_left_and_never_exceed_the_share(tokenizer, row, probability):
    ids, segment_ids = row
    config = MaskingConfig(probability=probability, whole_word=True)
    masked = mask_row(ids, segment_ids, config=config, tokenizer=tokenizer, rng=generator())
    chosen = set(masked["masked_positions"][masked["masked_weights"] == 1].tolist())
    words = words_of(ids, segment_ids, tokenizer)
    maskable = sum(map(len, words))
    room = (max(1, round(probability * maskable)) if maskable else 0) - len(chosen)
    assert room >= 0
    for word in words:
        assert set(word) <= chosen or not set(word) & chosen
        assert set(word) <= chosen or len(word) > room  # nothing that would still fit is left out


def test_dtypes_and_fields(tokenizer):
    ids = np.array([2, 20, 21, 3, 0], np.int32)
    masked = mask_row(ids, np.sign(ids), config=MaskingConfig(), tokenizer=tokenizer, rng=generator())
    assert {name: value.dtype.name for name, value in masked.items()} == {
        "ids": "int32",
        "segment_ids": "int32",
        "masked_positions": "int32",
        "masked_labels": "int32",
        "masked_weights": "float32",
    }


def test_a_row_with_nothing_to_mask_has_no_weight(tokenizer):
    ids = np.array([2, 3, 0, 4], np.int32)
    masked = mask_row(
        ids, np.array([1, 1, 0, 1], np.int32), config=MaskingConfig(), tokenizer=tokenizer, rng=generator()
    )
    assert np.array_equal(masked["ids"], ids)
    assert not masked["masked_weights"].any()


def test_the_row_given_is_not_changed(tokenizer):
    ids = np.full(100, 20, np.int32)
    ids.setflags(write=False)
    masked = mask_row(ids, np.ones(100, np.int32), config=MaskingConfig(), tokenizer=tokenizer, rng=generator())
    assert np.any(masked["ids"] != ids)


def test_masking_is_a_function_of_the_generator_alone(tokenizer):
    ids, segments = np.arange(5, 105, dtype=np.int32), np.ones(100, np.int32)

    def masked(seed):
        return mask_row(ids, segments, config=MaskingConfig(), tokenizer=tokenizer, rng=generator(seed))

    assert all(np.array_equal(masked(1)[name], masked(1)[name]) for name in masked(1))
    assert not np.array_equal(masked(1)["masked_positions"], masked(2)["masked_positions"])


def test_of_the_chosen_80_percent_are_masked_10_random_10_kept(tokenizer):
    length = 20_000
    ids = np.full(length, 50, np.int32)
    config = MaskingConfig(probability=0.5)
    masked = mask_row(ids, np.ones(length, np.int32), config=config, tokenizer=tokenizer, rng=generator(3))
    inputs = masked["ids"][masked["masked_positions"]]
    count = len(inputs)
    ordinary = tokenizer.vocab_size - 5
    # One random token in `ordinary` is the original again, and looks kept.
    shares = {"mask": 0.8, "random": 0.1 * (1 - 1 / ordinary), "kept": 0.1 * (1 + 1 / ordinary)}
    found = {"mask": np.sum(inputs == tokenizer.mask_id), "kept": np.sum(inputs == 50)}
    found["random"] = count - found["mask"] - found["kept"]
    for kind, share in shares.items():
        assert abs(found[kind] - share * count) < 5 * math.sqrt(count * share * (1 - share))  # five standard deviations


def test_random_tokens_are_uniform_over_the_ordinary_vocabulary(tokenizer):
    length = 400_000
    ids = np.full(length, 50, np.int32)
    config = MaskingConfig(probability=1.0)
    masked = mask_row(ids, np.ones(length, np.int32), config=config, tokenizer=tokenizer, rng=generator(4))
    counts = np.bincount(masked["ids"], minlength=tokenizer.vocab_size)
    assert counts[[0, 1, 2, 3]].sum() == 0
    others = np.delete(counts, [0, 1, 2, 3, tokenizer.mask_id, 50])
    expected = 0.1 * length / (tokenizer.vocab_size - 5)
    assert np.all(np.abs(others - expected) < 6 * math.sqrt(expected))  # six standard deviations, some 145 bins


def test_positions_are_chosen_uniformly(tokenizer):
    ids, segments = np.full(20, 30, np.int32), np.ones(20, np.int32)
    config = MaskingConfig(probability=0.25)
    rng = generator(5)
    counts = np.zeros(20)
    for _ in range(2000):
        counts[mask_row(ids, segments, config=config, tokenizer=tokenizer, rng=rng)["masked_positions"]] += 1
    assert np.all(np.abs(counts - 500) < 5 * math.sqrt(2000 * 0.25 * 0.75))


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1])
def test_a_probability_outside_its_range_is_refused(probability):
    with pytest.raises(InputError, match=r"must lie in \(0, 1\]"):
        MaskingConfig(probability=probability)


def test_whole_words_need_a_tokenizer_that_marks_them(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "is_continuation", None)
    ids = np.array([20, 21], np.int32)
    with pytest.raises(InputError, match="needs a WordPiece tokenizer"):
        mask_row(ids, np.ones(2, np.int32), config=MaskingConfig(whole_word=True), tokenizer=tokenizer, rng=generator())
