"""Live against Hugging Face's RoFormerTokenizer, in an environment of its own: `make test-peers`.

The text is made here, or, to compare on more, the lines of the file that CHINESE_TEXT names, with the vocab.txt that
CHINESE_VOCABULARY names.
"""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import rjieba

from roformer_jax.data.tokenizer import SPECIAL_TOKENS, load_tokenizer

PEERS = os.environ.get("PEERS_PYTHON")
TEXT, VOCABULARY = os.environ.get("CHINESE_TEXT"), os.environ.get("CHINESE_VOCABULARY")
LINES = 10_000
# Words that overlap in many ways, letters with case and accents, rare characters, signs.
FRAGMENTS = (
    "今天 天气 非常 好 中国 人民 大学 学生 大学生 生活 活动 动作 北京 北京大学 京城 城市 市长 长江 江大桥 大桥 的 了 "
    "是 在 不 我们 他们 研究 研究生 生命 起源 计算 计算机 机器 学习 自然 语言 处理 人工 智能 法院 判决 被告 原告 一 二 "
    "2019 年 3.14 100% c++ T恤 卡拉OK BERT RoFormer café Ünïcode don't e-mail Ａｂ１ ， 。 ！ 《 》 “ ” … — ( ) # & _ "
    "+ . \u3000 𠀀 𪜶 﨎 豈 龘 々 〇 の カタ 한국 😀 é e\u0301 İ ß ﬁ \u200b \x00 \t"
).split(" ")

pytestmark = pytest.mark.skipif(
    not PEERS, reason="PEERS_PYTHON names no Python with transformers and rjieba; `make test-peers` sets it"
)


def made_lines():
    rng = random.Random(0)
    separators = [""] * 6 + [" "]
    return [
        "".join(rng.choice(FRAGMENTS) + rng.choice(separators) for _ in range(rng.randint(1, 60))) for _ in range(LINES)
    ]


@pytest.fixture(scope="module")
def texts():
    return Path(TEXT).read_text(encoding="utf-8").splitlines() if TEXT else made_lines()


@pytest.fixture(scope="module")
def vocabulary(texts):
    """All characters but a few, every other word of jieba's, and beginnings and ends of the rest."""
    if VOCABULARY:
        return Path(VOCABULARY).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    text = "".join(FRAGMENTS)
    characters = sorted({c for c in text + text.lower() if c.isprintable() and not c.isspace()} - {"活", "_"})
    words = sorted({word for line in texts[:1000] for word in rjieba.cut(line, hmm=False) if len(word) > 1})
    pieces = [*characters, *words[::2], *(word[:2] for word in words), *(f"##{c}" for c in characters if c.isascii())]
    return list(
        dict.fromkeys([*SPECIAL_TOKENS, *(piece for piece in pieces if piece.isprintable() and " " not in piece)])
    )


def ids_of_transformers(folder, texts, vocabulary=(), lowercase=True):
    job = {"folder": str(folder), "texts": texts, "vocabulary": list(vocabulary), "lowercase": lowercase}
    script = Path(__file__).with_name("chinese_ids.py")
    done = subprocess.run([PEERS, str(script)], input=json.dumps(job), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_are_those_of_transformers_there_and_back(texts, vocabulary, lowercase, tmp_path):
    """Theirs are opened here, and ours, saved, are opened there."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    expected = ids_of_transformers(theirs, texts, vocabulary, lowercase)
    tokenizer = load_tokenizer(theirs)
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == expected
    assert len({i for ids in expected for i in ids}) > 100, "a few tokens would agree whatever the words"
    ours.mkdir()
    tokenizer.save(ours / "tokenizer.json")
    settings = {"tokenizer_class": "RoFormerTokenizer", "do_lower_case": lowercase}
    (ours / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert ids_of_transformers(ours, texts[:1000]) == expected[:1000]
    assert load_tokenizer(ours / "tokenizer.json").fingerprint == tokenizer.fingerprint
