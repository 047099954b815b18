"""Texts with their translations as packed rows of tokens: one vocabulary, three pairs of files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from roformer_jax.data.pairs import pack_pairs, read_pairs, too_long
from roformer_jax.data.rows import RowStore, cached_rows
from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.data.vocabulary import bpe_for, digest
from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.tasks.corpus import check_row_length, describe


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Sentences and their translations: UTF-8 text files, plain or .gz; line n of a target translates its source's."""

    source: str = ""
    """Text to translate from, to train on."""
    target: str = ""
    """Its translation."""
    heldout_source: str = ""
    """Text whose loss is measured during training."""
    heldout_target: str = ""
    """Its translation."""
    test_source: tuple[str, ...] = ()
    """Texts that are translated at the end."""
    test_target: tuple[str, ...] = ()
    """Their translations, which BLEU compares with."""
    tokenizer: str | None = None
    """tokenizer.json, vocab.txt or a folder (a run's, say) that holds one; none trains byte-pair encoding of
    model.vocab_size on both sides of the training text."""
    length: int = 256
    """Tokens of either side of a packed row."""
    too_long: Literal["refuse", "drop"] = "refuse"
    """What becomes of a pair one of whose sides is longer than a row: refused by its line, or left out and counted."""

    def __post_init__(self):
        check_types(self, "data.")
        check_row_length(self.length)
        if len(self.test_source) != len(self.test_target):
            raise InputError(
                f"data.test_source names {len(self.test_source)} files and data.test_target {len(self.test_target)}: "
                "every test has one of each"
            )
        if len(set(self.test_names)) != len(self.test_names):
            raise InputError(f"data.test_source: the names of the tests, {', '.join(self.test_names)}, must differ")

    @property
    def test_names(self) -> tuple[str, ...]:
        """What the tests are called: their sources' file names, to the first dot."""
        return tuple(Path(path).name.split(".")[0] for path in self.test_source)


class BleuTest(NamedTuple):
    """A text that is translated at the end."""

    name: str
    path: str
    sources: list[str]
    references: list[str]
    """Their translations, line by line."""


class ParallelCorpus(NamedTuple):
    """Tokenised, packed pairs, and the tests as they were read."""

    tokenizer: Tokenizer
    train: RowStore
    heldout: RowStore
    tests: list[BleuTest]
    summary: dict[str, str]
    """What there is, in words, and how many pairs were left out."""

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the tokenizer and of both parts."""
        return {
            "tokenizer": self.tokenizer.fingerprint,
            "train": self.train.fingerprint,
            "heldout": self.heldout.fingerprint,
        }


def prepare_pairs(config: PairsConfig, *, vocab_size: int, cache_dir: str) -> ParallelCorpus:
    """Read, tokenise and pack the pairs; what was done once is read back from `cache_dir`.

    Raises:
      InputError: a file that is not named, missing or unreadable, with an empty line or without a line for every line
        of the other; a pair that is too long; a vocabulary larger than `vocab_size`. The tests' files are checked too.
    """
    for name in ("source", "target", "heldout_source", "heldout_target"):
        if not getattr(config, name):
            raise InputError(f"data.{name} is not set: name a text file, e.g. --data.{name.replace('_', '-')} my/text")
    training = read_pairs(config.source, config.target)
    heldout_pairs = read_pairs(config.heldout_source, config.heldout_target)
    tests = read_tests(config)
    tokenizer = bpe_for(config.tokenizer, [*training[0], *training[1]], vocab_size=vocab_size, cache_dir=cache_dir)
    train = packed(config.source, training, tokenizer, config, cache_dir)
    heldout = packed(config.heldout_source, heldout_pairs, tokenizer, config, cache_dir)
    summary = {
        name: f"{pairs_in(rows):,} of {len(sources):,} pairs, in the target {describe(rows)}"
        for name, rows, (sources, _) in (("training text", train, training), ("held-out text", heldout, heldout_pairs))
    }
    return ParallelCorpus(tokenizer, train, heldout, tests, summary)


def packed(
    source: str, texts: tuple[list[str], list[str]], tokenizer: Tokenizer, config: PairsConfig, cache_dir: str
) -> RowStore:
    """The rows of the pairs whose first side lies in the file `source`, from the cache where they are there.

    Raises:
      InputError: a pair is too long and not to be dropped, or none is left.
    """
    length = config.length
    key = {
        "rows": "pairs 1",
        "source": digest(texts[0]),
        "target": digest(texts[1]),
        "tokenizer": tokenizer.fingerprint,
        "length": length,
        "too_long": config.too_long,
    }
    V = tokenizer.vocab_size
    bounds = {"source_ids": V, "ids": V, "labels": V, "source_segment_ids": length + 1, "segment_ids": length + 1}

    def rows():
        sources, targets = (tokenizer.encode(side) for side in texts)
        long = too_long(sources, targets, length)
        if long.any() and config.too_long == "refuse":
            line = int(long.argmax())
            raise InputError(
                f"{source}:{line + 1} has {len(sources[line])} tokens and its translation {len(targets[line])}, a row "
                f"holds one less than data.length = {length}; {long.sum():,} pairs are too long: raise it, or leave "
                "them out with --data.too-long drop"
            )
        kept = [i for i in range(len(sources)) if not long[i]]
        return pack_pairs([sources[i] for i in kept], [targets[i] for i in kept], tokenizer, length)

    return cached_rows(cache_dir, key, rows, bounds)


def pairs_in(rows: RowStore) -> int:
    """How many pairs the rows hold."""
    return sum(int(rows[i]["segment_ids"].max()) for i in range(len(rows)))


def read_tests(config: PairsConfig) -> list[BleuTest]:
    """Source lines and reference translations of every test."""
    files = zip(config.test_names, config.test_source, config.test_target, strict=True)
    return [BleuTest(name, source, *read_pairs(source, target)) for name, source, target in files]
