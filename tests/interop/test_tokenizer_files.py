"""What is written of a tokenizer gives its ids again, and says to transformers how."""

import json

import pytest

from roformer_jax.data.tokenizer import byte_tokenizer, load_tokenizer, train_wordpiece
from roformer_jax.interop.tokenizer_files import write_tokenizer

TEXTS = ["a cat sees a dog", "the dog sees the cat again"]
CHINESE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "今天", "天", "气", "好", "a"]


@pytest.fixture(params=["wordpiece", "bytes", "chinese"])
def tokenizer(request, tmp_path):
    if request.param == "chinese":
        (tmp_path / "vocab.txt").write_text("\n".join(CHINESE) + "\n", encoding="utf-8")
        return load_tokenizer(tmp_path / "vocab.txt")
    return byte_tokenizer() if request.param == "bytes" else train_wordpiece(TEXTS, vocab_size=60)


def written(tokenizer, tmp_path):
    folder = tmp_path / "written"
    folder.mkdir()
    write_tokenizer(folder, tokenizer, 77)
    return folder


def test_the_ids_are_the_same_when_read_again(tokenizer, tmp_path):
    again = load_tokenizer(written(tokenizer, tmp_path))
    texts = [*TEXTS, "今天天气好"]
    for ids, expected in zip(again.encode(texts), tokenizer.encode(texts), strict=True):
        assert ids.tolist() == expected.tolist()
    assert again.segmentation == tokenizer.segmentation


def test_texts_stand_between_cls_and_sep(tokenizer, tmp_path):
    content = json.loads((written(tokenizer, tmp_path) / "tokenizer.json").read_text(encoding="utf-8"))
    pair = [
        next(iter(part.values()))["id"] + str(next(iter(part.values()))["type_id"])
        for part in content["post_processor"]["pair"]
    ]
    assert pair == ["[CLS]0", "A0", "[SEP]0", "B1", "[SEP]1"]
    assert content["post_processor"]["special_tokens"]["[CLS]"]["ids"] == [tokenizer.cls_id]


def test_the_settings_name_class_length_and_special_tokens(tokenizer, tmp_path):
    folder = written(tokenizer, tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    chinese = tokenizer.segmentation is not None
    assert settings["tokenizer_class"] == ("RoFormerTokenizer" if chinese else "PreTrainedTokenizerFast")
    assert (settings["model_max_length"], settings["mask_token"]) == (77, "[MASK]")
    assert (folder / "vocab.txt").exists() == (tokenizer.is_continuation is not None)
