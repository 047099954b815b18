"""A small vocabulary of Chinese words, characters and word pieces, as RoFormer's is."""

import json

from roformer_jax.data.tokenizer import SPECIAL_TOKENS

CHARACTERS = "今天气非常好北京大学生活动中国人民。，！a1"
CONTINUED = "abcdefgh0123456789"
PIECES = [
    *SPECIAL_TOKENS,
    *CHARACTERS,
    "非常",
    "北京",
    "大学",
    "大学生",
    "中国",
    "t",
    "hello",
    *(f"##{c}" for c in CONTINUED),
    "##llo",
    "卡拉ok",
]
TEXT = "今天天气非常好。"
PUBLISHED = ["今", "天", "天", "气", "非常", "好", "。"]  # the example in the docstring of transformers' class


def pieces_of(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    return [tokenizer.token(i) for i in ids]


def write_vocabulary(folder, pieces=PIECES):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return path


def write_object(path, **fields):
    path.write_text(json.dumps(fields), encoding="utf-8")
