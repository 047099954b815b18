import pytest

from roformer_jax.data.tokenizer import train_wordpiece
from roformer_jax.data.vocabulary import digest, fitting_tokenizer, tokenizer_for
from roformer_jax.errors import InputError

TEXTS = ["rotate the query and the key", "never rotate the value", "positions are relative"] * 3


def test_digest_tells_contents_order_and_boundaries_apart():
    sequences = [["a", "b"], ["b", "a"], ["ab"], ["ab", ""], ["", "ab"], ["a", "c"], [], ["é"], ["e\u0301"], ["\ud800"]]
    assert len({digest(texts) for texts in sequences}) == len(sequences)
    assert digest(["a", "b"]) == digest(("a", "b"))


def test_vocabulary_is_trained_once_and_read_back(tmp_path, monkeypatch):
    cache = tmp_path / "new" / "cache"
    first = tokenizer_for(None, TEXTS, vocab_size=60, lowercase=True, cache_dir=str(cache))
    assert first.fingerprint == train_wordpiece(TEXTS, vocab_size=60).fingerprint
    (file,) = cache.iterdir()
    assert file.suffix == ".json"

    def not_again(*_arguments, **_keywords):
        raise AssertionError("trained again")

    monkeypatch.setattr("roformer_jax.data.vocabulary.train_wordpiece", not_again)
    again = tokenizer_for(None, TEXTS, vocab_size=60, lowercase=True, cache_dir=str(cache))
    assert again.fingerprint == first.fingerprint
    others = [(TEXTS[:-1], 60, True), (TEXTS, 59, True), (TEXTS, 60, False)]
    for texts, vocab_size, lowercase in others:
        with pytest.raises(AssertionError, match="trained again"):
            tokenizer_for(None, texts, vocab_size=vocab_size, lowercase=lowercase, cache_dir=str(cache))


def test_a_tokenizer_given_is_taken_as_it_is_and_nothing_is_cached(tmp_path):
    train_wordpiece(TEXTS, vocab_size=60).save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        found = tokenizer_for(str(path), [], vocab_size=60, lowercase=False, cache_dir=str(tmp_path / "cache"))
        assert found.fingerprint == train_wordpiece(TEXTS, vocab_size=60).fingerprint
    assert not (tmp_path / "cache").exists()


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path):
    trained = train_wordpiece(TEXTS, vocab_size=60)
    trained.save(tmp_path / "tokenizer.json")
    size = trained.vocab_size
    with pytest.raises(InputError, match=f"holds {size} tokens, the model only {size - 1}: set model.vocab_size to"):
        tokenizer_for(str(tmp_path), TEXTS, vocab_size=size - 1, lowercase=True, cache_dir="unused")


def test_a_cached_vocabulary_that_was_exchanged_for_a_larger_one_is_refused(tmp_path):
    small = {"vocab_size": 60, "lowercase": True, "cache_dir": str(tmp_path)}
    tokenizer_for(None, TEXTS, **small)
    (cached,) = tmp_path.iterdir()
    train_wordpiece([*TEXTS, "many other words make it larger"], vocab_size=70).save(cached)
    with pytest.raises(InputError, match=f"{cached} holds 70 tokens, the model only 60"):
        tokenizer_for(None, TEXTS, **small)


def test_a_tokenizer_fits_a_model_that_has_all_of_its_ids(tmp_path):
    assert fitting_tokenizer("bytes", 261).vocab_size == 261
    with pytest.raises(InputError, match="the vocabulary of bytes holds 261 tokens, the model only 260: set model"):
        fitting_tokenizer("bytes", 260)


def test_a_cache_that_cannot_be_written_or_read_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/tokenizer-\w+.json: cannot be written"):
        tokenizer_for(None, TEXTS, vocab_size=60, lowercase=True, cache_dir=str(tmp_path / "file"))
    cache = tmp_path / "cache"
    tokenizer_for(None, TEXTS, vocab_size=60, lowercase=True, cache_dir=str(cache))
    (file,) = cache.iterdir()
    file.write_text(file.read_text()[:100])
    with pytest.raises(InputError, match=f"{file.name}: not a tokenizer.json"):
        tokenizer_for(None, TEXTS, vocab_size=60, lowercase=True, cache_dir=str(cache))
