import dataclasses
import json

import numpy as np
import pytest

from roformer_jax.errors import InputError
from roformer_jax.tasks.corpus import CorpusConfig, StreamConfig, prepare_corpus, prepare_stream
from tests.tasks.made_up import VOCAB, sentences

BYTE_VOCAB = 261
TEXT = bytes(range(256)) * 5


@pytest.fixture
def stream_config(tmp_path):
    file = tmp_path / "stream"
    file.write_bytes(TEXT)
    return StreamConfig(path=str(file), length=32, holdout=0.2)


def whole(rows):
    return np.concatenate([rows[i]["ids"] for i in range(len(rows))])


def test_a_stream_is_held_out_at_its_end_and_cut_into_rows_without_a_gap(stream_config, tmp_path):
    corpus = prepare_stream(stream_config, vocab_size=BYTE_VOCAB, cache_dir=str(tmp_path / "cache"))
    ids = np.frombuffer(TEXT, np.uint8).astype(np.int32) + 5
    np.testing.assert_array_equal(whole(corpus.train), ids[:1024])
    np.testing.assert_array_equal(whole(corpus.heldout), ids[1024:])
    assert corpus.tokenizer.decode(corpus.train[1]["ids"]) == TEXT[32:64].decode()
    assert corpus.train.packing == corpus.heldout.packing == 1


def test_the_first_bytes_of_a_stream_may_be_all_that_is_read(stream_config, tmp_path):
    config = dataclasses.replace(stream_config, first_bytes=640, holdout=0.1)
    corpus = prepare_stream(config, vocab_size=BYTE_VOCAB, cache_dir=str(tmp_path / "cache"))
    assert (len(corpus.train), len(corpus.heldout)) == (18, 2)


@pytest.mark.parametrize(
    ("fields", "vocab_size", "message"),
    [
        ({"path": ""}, BYTE_VOCAB, r"data.path is not set: name a file, e.g. --data.path enwik8"),
        ({}, 260, r"model.vocab_size = 260 is below 261: 256 bytes and the special tokens"),
        ({"first_bytes": 2000}, BYTE_VOCAB, "1,280 bytes where 2,000 were asked for"),
        ({"holdout": 0.02}, BYTE_VOCAB, r"1,280 bytes and data.holdout = 0.02 leave 26 held-out bytes, less than a"),
        ({"holdout": 0.99}, BYTE_VOCAB, "leave 13 training bytes"),
    ],
)
def test_a_stream_that_does_not_fit_is_refused_before_anything_is_written(
    stream_config, tmp_path, fields, vocab_size, message
):
    with pytest.raises(InputError, match=message):
        config = dataclasses.replace(stream_config, **fields)
        prepare_stream(config, vocab_size=vocab_size, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_corpus_is_split_by_document_and_read_back_from_the_cache(corpus, corpus_config, cache_dir, monkeypatch):
    def tokens(rows):
        return [row["ids"][row["segment_ids"] == s] for row in map(rows.__getitem__, range(len(rows))) for s in (1, 2)]

    train, heldout = ({ids.tobytes() for ids in tokens(rows) if ids.size} for rows in (corpus.train, corpus.heldout))
    assert train and heldout and not train & heldout

    def not_again(*_arguments, **_keywords):
        raise AssertionError("made again")

    monkeypatch.setattr("roformer_jax.tasks.corpus.pack_documents", not_again)
    monkeypatch.setattr("roformer_jax.data.vocabulary.train_wordpiece", not_again)
    again = prepare_corpus(corpus_config, vocab_size=VOCAB, cache_dir=cache_dir)
    assert again.tokenizer.fingerprint == corpus.tokenizer.fingerprint
    assert again.train.fingerprint == corpus.train.fingerprint
    with pytest.raises(AssertionError, match="made again"):
        prepare_corpus(dataclasses.replace(corpus_config, length=16), vocab_size=VOCAB, cache_dir=cache_dir)


DIRTY = {  # one document each
    "a line of a megabyte": "rotate the query and key " * 42_000,
    "a word of 100,000 letters": "a" * 100_000,
    "special tokens spelled out": "[MASK] then [CLS] and [SEP] or [PAD] rotate[MASK]key",
    "right to left": "الاستعلام والمفتاح שאילתה ומפתח",
    "emoji joined to one": "👩‍👩‍👧 family 🏳️‍🌈",
    "control characters": "ro\x01tate\x7f \x00the\x1b[31m query\u200b\ufeff",
    "accents apart from their letters": "cle\u0301 requ\u00eate",
    "halves that never met": "\ufffd\ufffd",
    "old line ends": "one\rtwo\r\nthree\u2028four",
    "nothing but space": " \t\u00a0\u3000 ",
    "nothing": "",
}


@pytest.mark.parametrize("tokenizer", [None, "bytes"])
def test_any_text_becomes_rows_of_ids_of_the_vocabulary_without_a_special_token_inside(tmp_path, tokenizer):
    lines = [json.dumps({"text": text}) for text in (*DIRTY.values(), *sentences(40, seed=5))]
    (tmp_path / "dirty.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config = CorpusConfig(path=str(tmp_path / "dirty.jsonl"), length=1024, tokenizer=tokenizer, holdout=0.2)
    corpus = prepare_corpus(config, vocab_size=300, cache_dir=str(tmp_path / "cache"))
    found = corpus.tokenizer
    tokens = 0
    for rows in (corpus.train, corpus.heldout):
        for row in (rows[i] for i in range(len(rows))):
            assert 0 <= row["ids"].min() and row["ids"].max() < found.vocab_size
            for segment in range(1, row["segment_ids"].max() + 1):
                ids = row["ids"][row["segment_ids"] == segment]
                assert (ids[0], ids[-1]) == (found.cls_id, found.sep_id)
                assert not np.isin(ids[1:-1], [found.pad_id, found.cls_id, found.sep_id, found.mask_id]).any()
                tokens += len(ids) - 2
    texts = dict.fromkeys([*DIRTY.values(), *sentences(40, seed=5)])
    assert tokens == sum(map(len, found.encode(list(texts))))


def test_a_corpus_of_nothing_but_space_is_refused(tmp_path):
    (tmp_path / "blank.csv").write_text("text\n" + "\n".join(f'"{" " * n}"' for n in range(1, 40)), encoding="utf-8")
    config = CorpusConfig(path=str(tmp_path / "blank.csv"), holdout=0.2)
    for tokenizer, message in ((None, "the texts hold no characters"), ("vocab.txt", "the texts hold no tokens")):
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na", encoding="utf-8")
        given = dataclasses.replace(config, tokenizer=tokenizer and str(tmp_path / tokenizer))
        with pytest.raises(InputError, match=message):
            prepare_corpus(given, vocab_size=300, cache_dir=str(tmp_path / "cache"))


def test_a_cache_with_ids_that_the_tokenizer_has_not_is_refused(corpus_config, tmp_path):
    cache = str(tmp_path / "cache")
    corpus = prepare_corpus(corpus_config, vocab_size=VOCAB, cache_dir=cache)
    path = tmp_path / "cache" / corpus.train.fingerprint[:16] / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["ranges"]["ids"][1] = VOCAB
    path.write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(
        InputError, match=rf"{path.parent}: ids holds {VOCAB}, allowed are the integers 0 to {VOCAB - 1}"
    ):
        prepare_corpus(corpus_config, vocab_size=VOCAB, cache_dir=cache)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 7}, "data.length = 7: a row needs at least 8 tokens"),
        ({"holdout": 0.0}, r"data.holdout = 0.0 must lie strictly between 0 and 1"),
        ({"holdout": 1.0}, r"data.holdout = 1.0 must lie strictly between 0 and 1"),
    ],
)
@pytest.mark.parametrize("kind", [CorpusConfig, StreamConfig])
def test_impossible_corpora_are_refused_by_name(kind, fields, message):
    with pytest.raises(InputError, match=message):
        kind(**fields)


def test_a_corpus_needs_a_path_and_two_documents(tmp_path):
    with pytest.raises(InputError, match=r"data.path is not set: .* --data.path my/texts"):
        prepare_corpus(CorpusConfig(), vocab_size=VOCAB, cache_dir=str(tmp_path))
    (tmp_path / "only.txt").write_text("one document", encoding="utf-8")
    with pytest.raises(InputError, match=r"1 distinct documents and data.holdout = 0.05 leave no (training|held-out)"):
        prepare_corpus(CorpusConfig(path=str(tmp_path)), vocab_size=VOCAB, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
