import inspect
import pickle
import sys
import unicodedata

import numpy as np
import pytest
import rjieba
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from roformer_jax.data.chinese import PART_OF_WORD, WORDS_REMEMBERED
from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.data.packing import pack_documents
from roformer_jax.data.tokenizer import load_tokenizer
from roformer_jax.data.vocabulary import fitting_tokenizer
from roformer_jax.errors import InputError
from tests.data.made_vocabulary import CHARACTERS, PIECES, PUBLISHED, TEXT, pieces_of, write_object, write_vocabulary
from tests.data.test_tokenizer import wordpiece_of_the_paper


def slow_roformer(text):
    """RoFormer's tokenizer by its definition, a character at a time, for text without control characters."""
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn").lower()
    pieces = []
    for word in rjieba.cut(text, hmm=False):
        spaced = "".join(f" {c} " if unicodedata.name(c, "").startswith("CJK UNIFIED") else c for c in word)
        for part in [word] if word in PIECES else spaced.split():
            pieces += wordpiece_of_the_paper(part, PIECES)
    return pieces


def test_the_published_example_comes_out_as_published(chinese):
    assert pieces_of(chinese, TEXT) == PUBLISHED
    assert chinese.encode([TEXT])[0].tolist() == [PIECES.index(piece) for piece in PUBLISHED]
    assert chinese.segmentation == "jieba"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("北京大学", ["北", "京", "大", "学"]),  # one word of jieba, which is not in the vocabulary
        ("北京，大学", ["北京", "，", "大学"]),
        ("大学生", ["大学生"]),  # not 大学 and 生
        ("中国人民", ["中国", "人", "民"]),
        ("非 常", ["非", "常"]),  # a space parts words
        ("HELLO中国Héllo", ["hello", "中国", "hello"]),
        ("abc", ["a", "##b", "##c"]),
        ("1a好", ["1", "##a", "好"]),
        ("[MASK]", ["[UNK]", "[UNK]", "[UNK]"]),  # text, no special token
        ("龘", ["[UNK]"]),
        ("", []),
        (" \n\t\u3000", []),
    ],
)
def test_words_of_the_vocabulary_stay_whole_and_others_fall_apart(chinese, text, pieces):
    assert pieces_of(chinese, text) == pieces


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from([*PIECES[5:], "天气", "生活", "卡拉OK", "É", "ü", "c++", "3.14", " ", "\n", "？", "龘"]))
)
def test_any_mixture_gives_what_the_definition_gives(chinese, parts):
    text = "".join(parts)
    assert pieces_of(chinese, text) == slow_roformer(text)


@settings(deadline=None, max_examples=200)
@given(st.text(CHARACTERS + " ", max_size=40))
def test_no_character_is_lost_or_doubled(chinese, text):
    pieces = pieces_of(chinese, text)
    if "[UNK]" not in pieces:
        assert "".join(piece.removeprefix("##") for piece in pieces) == text.replace(" ", "")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_any_text_gives_ids_of_the_vocabulary_and_no_special_token(chinese, texts):
    together = chinese.encode(texts)
    for text, ids in zip(texts, together, strict=True):
        assert ids.dtype == np.int32
        assert set(ids.tolist()) <= {1, *range(5, chinese.vocab_size)}
        assert np.array_equal(ids, chinese.encode([text])[0])


def test_chinese_characters_are_those_of_the_bert_normalizer():
    bert = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    every = [chr(c) for c in range(sys.maxunicode + 1) if not chr(c).isspace() and not 0xD800 <= c < 0xE000]
    for c, spaced in zip(every, bert.normalize_str("\n".join(every)).split("\n"), strict=True):
        assert (spaced == f" {c} ") == (PART_OF_WORD.findall(f"x{c}") == ["x", c]), hex(ord(c))


def test_long_texts_and_many_words_take_no_more_memory_than_promised(chinese):
    assert chinese.encode(["a" * 1_000_000])[0].tolist() == [chinese.unk_id]
    assert len(chinese.encode(["天" * 100_000])[0]) == 100_000
    words = " ".join(f"a{i}" for i in range(WORDS_REMEMBERED + 1000))
    assert len(chinese.encode([words])[0]) > WORDS_REMEMBERED
    assert len(chinese._words._remembered) <= WORDS_REMEMBERED
    assert pieces_of(chinese, TEXT) == PUBLISHED


def test_only_word_pieces_continue_words(chinese):
    continuing = {PIECES[i] for i in np.flatnonzero(chinese.is_continuation)}
    assert continuing == {piece for piece in PIECES if piece.startswith("##")}


def test_whole_words_are_masked_whole(chinese):
    """A word of the vocabulary is one token, a character of another word too; the pieces of "abc" go together."""
    (row,) = pack_documents(chinese.encode(["abc北京，北京大学"]), chinese, 12)
    words = [{1, 2, 3}, {4}, {5}, {6}, {7}, {8}, {9}]
    seen = set()
    for seed in range(40):
        masked = mask_row(
            row["ids"],
            row["segment_ids"],
            config=MaskingConfig(probability=0.4, whole_word=True),
            tokenizer=chinese,
            rng=np.random.default_rng(seed),
        )
        positions = set(masked["masked_positions"][masked["masked_weights"] > 0].tolist())
        whole = [word for word in words if word <= positions]
        assert set().union(*whole) == positions
        seen |= positions
    assert seen == set(range(1, 10))


def test_decoding_names_the_words(chinese):
    assert chinese.decode(chinese.encode(["北京，hello"])[0]) == "北京 ， hello"


@pytest.mark.parametrize("bad", ["\ud800", 7, b"bytes", None])
def test_what_is_not_text_is_refused_with_its_index(chinese, bad):
    with pytest.raises(InputError, match="text 1 "):
        inspect.unwrap(type(chinese).encode)(chinese, ["好", bad])


def test_save_and_load_keep_everything(chinese, tmp_path):
    chinese.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = fitting_tokenizer(path, chinese.vocab_size)
        assert loaded.fingerprint == chinese.fingerprint
        assert loaded.segmentation == "jieba"
        assert pieces_of(loaded, TEXT) == PUBLISHED
        loaded.save(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_a_saved_file_opens_in_the_library_tokenizers(chinese, tmp_path):
    chinese.save(tmp_path / "tokenizer.json")
    opened = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert opened.get_vocab() == {piece: i for i, piece in enumerate(PIECES)}
    assert opened.encode("hello, abc").tokens == ["hello", "[UNK]", "a", "##b", "##c"]


def test_workers_get_a_copy(chinese):
    copy = pickle.loads(pickle.dumps(chinese))
    assert pieces_of(copy, TEXT) == PUBLISHED


def test_the_fingerprint_depends_on_the_segmentation_and_its_dictionary(chinese, tmp_path, monkeypatch):
    path = write_vocabulary(tmp_path)
    monkeypatch.setattr("roformer_jax.data.chinese.metadata.version", lambda name: "9")
    newer = load_tokenizer(path)
    write_object(tmp_path / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert len({chinese.fingerprint, newer.fingerprint, load_tokenizer(path).fingerprint}) == 3
