import inspect
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.data.tokenizer import (
    ENCODE_CHUNK,
    SPECIAL_TOKENS,
    byte_tokenizer,
    load_tokenizer,
    train_wordpiece,
)
from roformer_jax.errors import InputError

SENTENCES = ["low lower lowest", "new newer newest", "wide wider widest, and low!"]
PIECES = [
    *SPECIAL_TOKENS,
    "un",
    "##aff",
    "##able",
    "##a",
    "##f",
    "want",
    "##want",
    "##ed",
    "run",
    "##n",
    "##ing",
    "hello",
    "!",
    "é",
]


def wordpiece_of_the_paper(word: str, vocab: list[str]) -> list[str]:
    """Greedy longest match first, as google-research/bert tokenization.py spells it."""
    pieces, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = [end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab]
        if not ends:
            return ["[UNK]"]
        pieces.append(prefix + word[start : ends[0]])
        start = ends[0]
    return pieces


@pytest.fixture
def vocab_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


def test_special_tokens_come_first_and_ids_are_contiguous(tokenizer):
    assert [tokenizer.token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert len({tokenizer.token(i) for i in range(tokenizer.vocab_size)}) == tokenizer.vocab_size == 150


def test_training_twice_gives_the_same_vocabulary():
    # Many ties: every letter begins and continues as many words as every other.
    texts = [f"{a}{b}{a} {b}{a}{b}" for a in "abcdefghijklm" for b in "nopqrstuvwxyz"]
    fingerprints = {train_wordpiece(texts, vocab_size=150).fingerprint for _ in range(5)}
    assert len(fingerprints) == 1


def test_other_texts_give_another_fingerprint(tokenizer):
    assert train_wordpiece(SENTENCES, vocab_size=200).fingerprint != tokenizer.fingerprint


def test_endless_words_are_left_out_of_training():
    """A megabyte without a space would otherwise take hours; words up to the limit count."""
    endless = "ab" * 500_000
    longest = train_wordpiece([endless[:100]] * 3 + SENTENCES, vocab_size=300)
    assert len(longest.encode([endless[:100]])[0]) == 1
    assert longest.encode([endless[:101]])[0].tolist() == [longest.unk_id]
    fingerprints = {train_wordpiece([text, "ab", *SENTENCES], vocab_size=100).fingerprint for text in ("", endless)}
    assert len(fingerprints) == 1


def test_frequent_words_become_single_pieces():
    tokenizer = train_wordpiece(["rotary"] * 50 + SENTENCES, vocab_size=100)
    assert [tokenizer.token(i) for i in tokenizer.encode(["rotary"])[0]] == ["rotary"]


def test_every_word_of_known_letters_can_be_spelled(tokenizer):
    assert tokenizer.unk_id not in tokenizer.encode(["ZQ quokka yyy"])[0]


def test_continuations_are_the_hash_pieces(tokenizer):
    pieces = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    assert tokenizer.is_continuation.tolist() == [piece.startswith("##") and piece != "##" for piece in pieces]
    assert tokenizer.is_continuation.any()


def test_a_vocabulary_smaller_than_its_alphabet_is_refused():
    with pytest.raises(InputError, match=r"vocab_size=20 leaves no room .* are \d+"):
        train_wordpiece(SENTENCES, vocab_size=20)


@pytest.mark.parametrize("texts", [[], ["", "  \n\t"]])
def test_training_on_nothing_is_refused(texts):
    with pytest.raises(InputError, match="no characters"):
        train_wordpiece(texts, vocab_size=100)


def test_special_tokens_in_text_stay_text(tokenizer):
    specials = {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
    for token in ("[MASK]", "[CLS]", "[SEP]", "[PAD]"):
        for text in (token, f"position {token} position", f"a{token}b"):
            assert not specials & set(tokenizer.encode([text])[0].tolist())


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_any_text_gives_ids_of_the_vocabulary_and_no_special_token(tokenizer, texts):
    for ids in tokenizer.encode(texts):
        assert ids.dtype == np.int32
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert not set(ids.tolist()) & {tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}


def test_order_is_kept_over_several_chunks(tokenizer):
    texts = ["key", "query value"] * (ENCODE_CHUNK // 2 + 1)
    ids = tokenizer.encode(texts)
    assert len(ids) == len(texts)
    assert all(np.array_equal(found, ids[i % 2]) for i, found in enumerate(ids))


def test_decoding_joins_the_pieces(tokenizer):
    assert tokenizer.decode(tokenizer.encode(["Rotating keys and queries!"])[0]) == "rotating keys and queries!"


def test_a_very_long_word_is_one_unknown_token(tokenizer):
    assert tokenizer.encode(["a" * 100_000])[0].tolist() == [tokenizer.unk_id]


def test_emoji_outside_the_vocabulary_are_unknown(tokenizer):
    assert tokenizer.unk_id in tokenizer.encode(["keys 👩‍👩‍👧"])[0]


@pytest.mark.parametrize("bad", ["\ud800", 7, b"bytes", None])
def test_what_is_not_text_is_refused_with_its_index(tokenizer, bad):
    with pytest.raises(InputError, match="text 1 "):
        # Past the type checks of the test session, which would refuse the argument before the tokenizer does.
        inspect.unwrap(type(tokenizer).encode)(tokenizer, ["fine", bad])


def test_save_and_load_keep_everything(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        text = ["Rotated values, [MASK]."]
        assert loaded.encode(text)[0].tolist() == tokenizer.encode(text)[0].tolist()


@pytest.mark.parametrize("word", ["unaffable", "unwanted", "running", "want", "unx", "unaff", "hello"])
def test_vocab_txt_splits_words_greedily_like_bert(vocab_file, word):
    tokenizer = load_tokenizer(vocab_file)
    found = [tokenizer.token(i) for i in tokenizer.encode([word])[0]]
    assert found == wordpiece_of_the_paper(word, PIECES)


def test_an_uncased_vocab_txt_folds_case_and_accents(vocab_file):
    tokenizer = load_tokenizer(vocab_file)
    text = f"HÉLLO{unicodedata.lookup('NO-BREAK SPACE')}hello!"
    assert [tokenizer.token(i) for i in tokenizer.encode([text])[0]] == ["hello", "hello", "!"]


def test_a_cased_vocab_txt_keeps_case_and_accents(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*PIECES, "Hello"]), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert [tokenizer.token(i) for i in tokenizer.encode(["Hello hello é"])[0]] == ["Hello", "hello", "é"]


def test_a_model_without_words_marks_no_continuations(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"] = {"type": "BPE", "vocab": content["model"]["vocab"], "merges": [], "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_tokenizer(tmp_path).is_continuation is None


def test_truncation_and_padding_of_a_saved_tokenizer_are_ignored(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    text = ["Attention depends on relative positions"]
    assert np.array_equal(load_tokenizer(tmp_path).encode(text)[0], tokenizer.encode(text)[0])


def test_a_hostile_id_is_refused(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"]["boom"] = 10**9
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="'boom' has id 1000000000, expected 150"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": "1.0", "model": 3}'])
def test_a_damaged_tokenizer_json_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_missing_special_tokens_are_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\nword\n")
    with pytest.raises(InputError, match=r"\['\[SEP\]', '\[MASK\]'\] are missing"):
        load_tokenizer(tmp_path)


def test_repeated_pieces_are_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*PIECES, "un"]), encoding="utf-8")
    with pytest.raises(InputError, match=r"\['un'\] stand on more than one line"):
        load_tokenizer(tmp_path)


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match="holds neither"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"absent\.txt: cannot read"):
        load_tokenizer(tmp_path / "absent.txt")
    (tmp_path / "vocab.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8 at byte 3"):
        load_tokenizer(tmp_path)


@settings(deadline=None, max_examples=30)
@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_bytes_are_the_utf8_of_the_text_and_come_back(text):
    tokenizer = byte_tokenizer()
    (ids,) = tokenizer.encode([text])
    assert (ids - 5).tolist() == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_the_byte_tokenizer_is_saved_and_loaded_without_loss(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.vocab_size == 261
    assert loaded.is_continuation is None
    assert loaded.encode(["[MASK] é"])[0].tolist() == [5 + byte for byte in "[MASK] é".encode()]
