import pytest

from roformer_jax.data.tokenizer import Tokenizer, load_tokenizer, train_wordpiece
from tests.data.made_vocabulary import write_vocabulary

SENTENCES = [
    "The rotation of queries and keys encodes absolute positions.",
    "Attention then depends on relative positions only!",
    'He said: "don\'t rotate the values" (they carry no position).',
    "Rotated keys, rotating queries, unrotated values; a café in Zürich, 10,000 wavelengths.",
    "旋转 位置 编码 works for Chinese too.",
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_wordpiece(SENTENCES, vocab_size=150)


@pytest.fixture(scope="session")
def chinese(tmp_path_factory) -> Tokenizer:
    return load_tokenizer(write_vocabulary(tmp_path_factory.mktemp("chinese")))
