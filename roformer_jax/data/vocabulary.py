"""The tokenizer of a run: the one it is given, or one trained once on its training text and kept in the cache."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from roformer_jax.data.files import PACKAGE_PREFIX, resolve
from roformer_jax.data.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer, train_bpe, train_wordpiece
from roformer_jax.errors import InputError

BYTES = "bytes"


def digest(texts: Sequence[str]) -> str:
    """sha256 of a sequence of texts: their contents, order and boundaries."""
    state = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        state.update(len(encoded).to_bytes(8, "big") + encoded)
    return state.hexdigest()


def fitting_tokenizer(path: str | Path, vocab_size: int) -> Tokenizer:
    """Load the tokenizer at `path`, all of whose ids a model with an embedding of `vocab_size` has; "bytes" is a path.

    Raises:
      InputError: no tokenizer is there, or one of more tokens.
    """
    if str(path).startswith(PACKAGE_PREFIX):
        path = resolve(str(path))
    tokenizer = byte_tokenizer() if path == BYTES else load_tokenizer(path)
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"the vocabulary of {path} holds {tokenizer.vocab_size} tokens, the model only {vocab_size}: "
            f"set model.vocab_size to {tokenizer.vocab_size} or more"
        )
    return tokenizer


def tokenizer_for(
    path: str | None, texts: Sequence[str], *, vocab_size: int, lowercase: bool, cache_dir: str
) -> Tokenizer:
    """Load the tokenizer at `path`, or train a WordPiece vocabulary of at most `vocab_size` on `texts`.

    Raises:
      InputError: the tokenizer holds more tokens than the model's embedding, or the cache cannot be written.
    """
    if path is not None:
        return fitting_tokenizer(path, vocab_size)
    return cached_tokenizer(
        f"wordpiece 2 {vocab_size} {lowercase} {digest(texts)}",
        lambda: train_wordpiece(texts, vocab_size=vocab_size, lowercase=lowercase),
        vocab_size=vocab_size,
        cache_dir=cache_dir,
    )


def bpe_for(path: str | None, texts: Sequence[str], *, vocab_size: int, cache_dir: str) -> Tokenizer:
    """Load the tokenizer at `path`, or train byte-pair encoding of at most `vocab_size` tokens on `texts`.

    Raises:
      InputError: as `tokenizer_for`.
    """
    if path is not None:
        return fitting_tokenizer(path, vocab_size)
    return cached_tokenizer(
        f"bpe 1 {vocab_size} {digest(texts)}",
        lambda: train_bpe(texts, vocab_size=vocab_size),
        vocab_size=vocab_size,
        cache_dir=cache_dir,
    )


def cached_tokenizer(key: str, train: Callable[[], Tokenizer], *, vocab_size: int, cache_dir: str) -> Tokenizer:
    """Read the tokenizer that `key` stands for from the cache, training it first if it is not there.

    Raises:
      InputError: it holds more tokens than the model's embedding, or the cache cannot be written.
    """
    cached = Path(cache_dir) / f"tokenizer-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not cached.exists():
        trained = train()
        partial = cached.with_suffix(f".{os.getpid()}.partial")
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            trained.save(partial)
            os.replace(partial, cached)
        except OSError as error:
            raise InputError(f"{cached}: cannot be written: {error}") from error
    return fitting_tokenizer(cached, vocab_size)
