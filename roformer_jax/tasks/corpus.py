"""Text as rows of tokens for language models: documents packed, or one stream of bytes cut."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roformer_jax.data.packing import pack_documents
from roformer_jax.data.rows import RowStore, cached_rows
from roformer_jax.data.sources import deduplicate, read_texts, split_by_content
from roformer_jax.data.stream import read_stream, stream_digest, stream_rows
from roformer_jax.data.tokenizer import Tokenizer, byte_tokenizer
from roformer_jax.data.vocabulary import digest, tokenizer_for
from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.typing import Array, Float

UNIGRAM_ROWS = 20_000  # rows, spread over the training text, whose token frequencies are counted
SHORTEST_ROW = 8  # tokens


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """The text to pretrain on, and how it becomes rows of tokens."""

    path: str = ""
    """A folder or file of text, a CSV/TSV/JSONL table, package:NAME/FOLDER, or tfds:NAME:SPLIT."""
    pattern: str = "**/*.txt"
    """Which files of a folder; each is one document."""
    column: str = "text"
    """The text column of a table or TFDS data set; each row is one document."""
    encoding: str = "utf-8"
    """Character encoding of the files."""
    tokenizer: str | None = None
    """vocab.txt, tokenizer.json or a folder (a run's, say) that holds one; "bytes" for single bytes; none trains a
    WordPiece vocabulary of model.vocab_size on the training text."""
    lowercase: bool = True
    """Whether a vocabulary trained here folds case and accents."""
    length: int = 512
    """Tokens per packed row; longer documents are cut into pieces of this length."""
    holdout: float = 0.05
    """Share of the documents held out for evaluation, chosen by the hash of their text."""

    def __post_init__(self):
        check_types(self, "data.")
        _check_rows(self.length, self.holdout)
        try:
            next(Path(os.devnull).glob(self.pattern), None)  # in no folder: it is only read
        except (ValueError, NotImplementedError) as error:
            raise InputError(f"data.pattern = {self.pattern!r} names no files of a folder: {error}") from error


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """A file of bytes to train on, and how it becomes rows: consecutive pieces, every byte a token."""

    path: str = ""
    """A file, or package:NAME/FILE; unpacked where its name ends in .gz or .bz2."""
    first_bytes: int | None = None
    """Read only so many from its start; none reads the whole file."""
    length: int = 1024
    """Bytes per row."""
    holdout: float = 0.05
    """Share of the bytes held out for evaluation, at the end."""

    def __post_init__(self):
        check_types(self, "data.")
        _check_rows(self.length, self.holdout)
        if self.first_bytes is not None and self.first_bytes < 1:
            raise InputError(f"data.first_bytes = {self.first_bytes} must be positive")


def check_row_length(length: int) -> None:
    """Refuse rows too short to learn from."""
    if length < SHORTEST_ROW:
        raise InputError(f"data.length = {length}: a row needs at least {SHORTEST_ROW} tokens")


def _check_rows(length: int, holdout: float) -> None:
    """Refuse rows and splits that leave nothing to learn from."""
    check_row_length(length)
    if not 0 < holdout < 1:
        raise InputError(f"data.holdout = {holdout} must lie strictly between 0 and 1")


class Corpus(NamedTuple):
    """Tokenised, packed text."""

    tokenizer: Tokenizer
    train: RowStore
    heldout: RowStore

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return len(self.train[0]["ids"])

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the tokenizer and of both sides."""
        return {
            "tokenizer": self.tokenizer.fingerprint,
            "train": self.train.fingerprint,
            "heldout": self.heldout.fingerprint,
        }


def prepare_corpus(config: CorpusConfig, *, vocab_size: int, cache_dir: str) -> Corpus:
    """Read, deduplicate, split, tokenise and pack the text; what was done once is read back from `cache_dir`.

    Raises:
      InputError: no path, unreadable text, a side of the split without text, a vocabulary larger than `vocab_size`.
    """
    if not config.path:
        raise InputError("data.path is not set: name a folder or file of text, e.g. --data.path my/texts")
    texts = read_texts(config.path, pattern=config.pattern, column=config.column, encoding=config.encoding)
    texts = [texts[i] for i in deduplicate(texts)]
    train, heldout = ([texts[i] for i in side] for side in split_by_content(texts, config.holdout))
    for name, side in (("training", train), ("held-out", heldout)):
        if not side:
            raise InputError(
                f"{config.path}: {len(texts)} distinct documents and data.holdout = {config.holdout} leave no {name} "
                "text; give more documents (a table has one a row) or another holdout"
            )
    tokenizer = tokenizer_for(
        config.tokenizer, train, vocab_size=vocab_size, lowercase=config.lowercase, cache_dir=cache_dir
    )

    def rows(side: list[str]) -> RowStore:
        key = {
            "rows": "documents 2",
            "texts": digest(side),
            "tokenizer": tokenizer.fingerprint,
            "length": config.length,
        }
        bounds = row_bounds(tokenizer, config.length)
        return cached_rows(
            cache_dir, key, lambda: pack_documents(tokenizer.encode(side), tokenizer, config.length), bounds
        )

    return Corpus(tokenizer, rows(train), rows(heldout))


def prepare_stream(config: StreamConfig, *, vocab_size: int, cache_dir: str) -> Corpus:
    """Read a file of bytes and cut it into rows; what was done once is read back from `cache_dir`.

    Raises:
      InputError: no path, an unreadable file, a side of the split shorter than a row, a vocabulary below 261.
    """
    if not config.path:
        raise InputError("data.path is not set: name a file, e.g. --data.path enwik8")
    tokenizer = byte_tokenizer()
    if vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"model.vocab_size = {vocab_size} is below {tokenizer.vocab_size}: 256 bytes and the special tokens"
        )
    stream = read_stream(config.path, config.first_bytes)
    end = round(len(stream) * (1 - config.holdout))
    sides = {"training": stream[:end], "held-out": stream[end:]}
    for name, side in sides.items():
        if len(side) < config.length:
            raise InputError(
                f"{config.path}: {len(stream):,} bytes and data.holdout = {config.holdout} leave {len(side):,} {name} "
                f"bytes, less than a row (data.length = {config.length})"
            )
    rows = {name: cached_stream(side, config.length, tokenizer, cache_dir) for name, side in sides.items()}
    return Corpus(tokenizer, rows["training"], rows["held-out"])


def cached_stream(stream: np.ndarray, length: int, tokenizer: Tokenizer, cache_dir: str) -> RowStore:
    """The rows of a stream of bytes, from the cache where they are there."""
    key = {"rows": "stream 2", "bytes": stream_digest(stream), "length": length}
    return cached_rows(cache_dir, key, lambda: stream_rows(stream, length), row_bounds(tokenizer, length))


def row_bounds(tokenizer: Tokenizer, length: int) -> dict[str, int | None]:
    """What the tokens of a row may hold: the tokenizer's ids, and as many segments as a row has tokens."""
    return {"ids": tokenizer.vocab_size, "segment_ids": length + 1}


def describe(rows: RowStore) -> str:
    """Size and packing of a row store, in words."""
    tokens, filled = rows.metadata["real_tokens"], 100 * rows.packing
    return f"{tokens:,} tokens in {len(rows):,} rows ({filled:.1f} % of the places filled)"


def row_shapes(microbatches: int, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of the tokens of a training batch of so many rows."""
    tokens = jax.ShapeDtypeStruct((microbatches, rows // microbatches, length), jnp.int32)
    return {"ids": tokens, "segment_ids": tokens}


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(logits)[label] in nats, NaN for a label outside; `logits` has one more axis than `labels`."""
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1, wrap_negative_indices=False)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def unigram_log_probability(corpus: Corpus) -> Float[np.ndarray, "vocab"]:
    """Log frequency of every token in the training text; one is added to every count, so that none is impossible."""
    counts = np.ones(corpus.tokenizer.vocab_size, np.int64)
    stride = -(-len(corpus.train) // UNIGRAM_ROWS)
    for row in (corpus.train[i] for i in range(0, len(corpus.train), stride)):
        ids = row["ids"][row["segment_ids"] > 0]
        np.add.at(counts, ids[(ids != corpus.tokenizer.cls_id) & (ids != corpus.tokenizer.sep_id)], 1)
    return np.log(counts / np.sum(counts))
