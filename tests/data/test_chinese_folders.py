"""Which folders and files hold a tokenizer that jieba segments for, and which are refused."""

import json
import re
import sys

import pytest
import tokenizers

from roformer_jax.data.tokenizer import SPECIAL_TOKENS, load_tokenizer
from roformer_jax.errors import InputError
from tests.data.made_vocabulary import PIECES, PUBLISHED, TEXT, pieces_of, write_object, write_vocabulary


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"tokenizer_class": "RoFormerTokenizer"}},
        {"tokenizer_config.json": {"tokenizer_class": "RoFormerTokenizerFast", "strip_accents": None}},
        {"tokenizer_config.json": {}, "config.json": {"tokenizer_class": "RoFormerTokenizer", "model_type": "bert"}},
        {"config.json": {"model_type": "roformer"}},
        {"config.json": {"model_type": "bert"}},  # WoBERT's; the words say it
    ],
)
def test_folders_of_hugging_face_are_recognised(chinese, tmp_path, files):
    write_vocabulary(tmp_path)
    for name, fields in files.items():
        write_object(tmp_path / name, **fields)
    for path in (tmp_path, tmp_path / "vocab.txt"):
        assert load_tokenizer(path).fingerprint == chinese.fingerprint


@pytest.mark.parametrize("place", ["tokenizer_config.json", "config.json"])
def test_a_character_model_keeps_its_bert_tokenizer(tmp_path, place):
    write_vocabulary(tmp_path)
    write_object(tmp_path / place, tokenizer_class="BertTokenizer", model_type="roformer")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.segmentation is None
    assert pieces_of(tokenizer, "非常好") == ["非", "常", "好"]


def test_what_transformers_saves_is_recognised(chinese, tmp_path):
    """It writes no vocab.txt, and a tokenizer.json that claims BERT's pre-tokenizer."""
    chinese.save(tmp_path / "tokenizer.json")
    fields = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    del fields["pre_tokenizer"]["segmentation"]
    write_object(tmp_path / "tokenizer.json", **fields)
    assert load_tokenizer(tmp_path).segmentation is None
    write_object(tmp_path / "tokenizer_config.json", tokenizer_class="RoFormerTokenizer")
    assert pieces_of(load_tokenizer(tmp_path), TEXT) == PUBLISHED


@pytest.mark.parametrize(
    ("fields", "pieces"),
    [
        ({}, ["e", "e", "hello"]),
        ({"do_lower_case": False}, ["É", "e", "Hello"]),
        ({"do_lower_case": False, "strip_accents": True}, ["E", "e", "Hello"]),
        ({"strip_accents": False}, ["é", "e", "hello"]),
    ],
)
def test_case_and_accents_are_as_the_folder_says(tmp_path, fields, pieces):
    own = [*SPECIAL_TOKENS, "中国", "É", "E", "é", "e", "Hello", "hello"]
    write_vocabulary(tmp_path, own)
    write_object(tmp_path / "tokenizer_config.json", tokenizer_class="RoFormerTokenizer", **fields)
    assert pieces_of(load_tokenizer(tmp_path), "É e Hello") == pieces


def test_our_own_mark_comes_before_a_configuration(chinese, tmp_path):
    chinese.save(tmp_path / "tokenizer.json")
    write_object(tmp_path / "tokenizer_config.json", tokenizer_class="RoFormerTokenizer", do_lower_case=False)
    assert load_tokenizer(tmp_path).fingerprint == chinese.fingerprint


def test_without_jieba_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(
        InputError, match=re.escape("vocab.txt: ") + ".*" + re.escape('pip install "roformer-jax[chinese]"')
    ):
        load_tokenizer(write_vocabulary(tmp_path))
    write_vocabulary(tmp_path, [*SPECIAL_TOKENS, "中", "国", "##国"])
    assert load_tokenizer(tmp_path).segmentation is None, "BERT's Chinese vocabularies need no jieba"


def change(path, **fields):
    write_object(path, **(json.loads(path.read_text(encoding="utf-8")) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pre_tokenizer": {"type": "BertPreTokenizer", "segmentation": "mecab"}}, "'mecab'; known here is 'jieba'"),
        ({"pre_tokenizer": {"type": "BertPreTokenizer", "segmentation": []}}, r"not a tokenizer\.json"),
        ({"pre_tokenizer": {"segmentation": "jieba"}}, r"not a tokenizer\.json"),
        ({"pre_tokenizer": "jieba"}, r"not a tokenizer\.json"),
        ({"normalizer": None}, "behind a normalizer"),
        (
            {"model": {"type": "BPE", "vocab": {p: i for i, p in enumerate(PIECES)}, "merges": []}},
            "in a WordPiece vocabulary",
        ),
    ],
)
def test_a_damaged_mark_is_refused(chinese, tmp_path, fields, message):
    chinese.save(tmp_path / "tokenizer.json")
    change(tmp_path / "tokenizer.json", **fields)
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path)


def test_added_tokens_are_refused(chinese, tmp_path):
    chinese.save(tmp_path / "tokenizer.json")
    opened = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    opened.add_tokens(["<e1>"])
    opened.save(str(tmp_path / "tokenizer.json"))
    write_object(tmp_path / "tokenizer_config.json", tokenizer_class="RoFormerTokenizer")
    with pytest.raises(InputError, match=r"added tokens \['<e1>'\] cannot be kept whole"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{", r"tokenizer_config\.json is not valid JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json holds a list instead of a JSON object"),
        ("config.json", "3", r"config\.json holds a int instead of a JSON object"),
        ("config.json", "[" * 100_000, r"config\.json is not valid JSON"),
        ("tokenizer_config.json", '{"tokenizer_class": ["RoFormerTokenizer"]}', "tokenizer_class = "),
        (
            "tokenizer_config.json",
            '{"tokenizer_class": "RoFormerTokenizer", "do_lower_case": "yes"}',
            r"do_lower_case and strip_accents are true or false, got .*'yes'",
        ),
    ],
)
def test_a_damaged_configuration_is_refused(tmp_path, name, content, message):
    write_vocabulary(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_tokenizer(tmp_path)


def test_an_unreadable_configuration_is_refused(tmp_path):
    write_vocabulary(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        load_tokenizer(tmp_path)
