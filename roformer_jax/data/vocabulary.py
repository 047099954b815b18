"""The tokenizer of a run: the one it is given, or one trained once on its training text and kept in the cache."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from roformer_jax.data.files import PACKAGE_PREFIX, resolve
from roformer_jax.data.tokenizer import Tokenizer, byte_tokenizer, load_tokenizer, train_wordpiece
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
    key = hashlib.sha256(f"wordpiece 2 {vocab_size} {lowercase} {digest(texts)}".encode()).hexdigest()
    cached = Path(cache_dir) / f"tokenizer-{key[:16]}.json"
    if not cached.exists():
        trained = train_wordpiece(texts, vocab_size=vocab_size, lowercase=lowercase)
        partial = cached.with_suffix(f".{os.getpid()}.partial")
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            trained.save(partial)
            os.replace(partial, cached)
        except OSError as error:
            raise InputError(f"{cached}: cannot be written: {error}") from error
    return fitting_tokenizer(cached, vocab_size)
