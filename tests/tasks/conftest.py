"""One small corpus for all; the programs are tiny, so that compiling them is what takes time."""

import jax
import pytest

from roformer_jax.tasks.corpus import CorpusConfig, prepare_corpus
from tests.tasks.made_up import LENGTH, VOCAB, sentences


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def corpus_config(tmp_path_factory):
    table = tmp_path_factory.mktemp("text") / "texts.csv"
    table.write_text("\n".join(["text", *sentences(160, seed=1)]) + "\n", encoding="utf-8")
    return CorpusConfig(path=str(table), length=LENGTH, holdout=0.2)


@pytest.fixture(scope="session")
def corpus(corpus_config, cache_dir):
    return prepare_corpus(corpus_config, vocab_size=VOCAB, cache_dir=cache_dir)
