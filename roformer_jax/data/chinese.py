"""Chinese text as RoFormer reads it: the words that jieba finds without its HMM; those of the vocabulary stay whole.

The ids are those of `RoFormerTokenizer` in transformers 5. A word outside the vocabulary falls into its characters,
and what is left of it, letters and digits, into WordPieces.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from roformer_jax.data.files import read_object
from roformer_jax.errors import InputError

JIEBA = "jieba"
INSTALL = 'pip install "roformer-jax[chinese]"'
# The characters that BERT takes for Chinese, in the ranges of the library tokenizers (in one, 256 short of BERT's).
CHINESE = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
)
CHINESE_WORD = re.compile(f"[{CHINESE}]{{2,}}")
PART_OF_WORD = re.compile(f"[{CHINESE}]|[^{CHINESE}\\s]+")
# Words whose ids are remembered, and the characters of the longest: more than most texts have, some 20 MB.
WORDS_REMEMBERED = 100_000
LONGEST_REMEMBERED = 32
MARK = "segmentation"
SETTINGS, CONFIG = "tokenizer_config.json", "config.json"


class Piece(Protocol):
    """A token of the library tokenizers."""

    id: int


class WordEncoder:
    """Ids of a text whose words jieba tells apart.

    Args:
        pieces: the vocabulary.
        normalize: what is done to a text first (control characters out, case and accents folded).
        split: the WordPieces of a word.
        source: names the vocabulary in error messages.

    Raises:
        InputError: jieba is not installed.
    """

    def __init__(
        self,
        pieces: Iterable[str],
        normalize: Callable[[str], str],
        split: Callable[[str], Sequence[Piece]],
        source: str,
    ):
        try:
            import rjieba  # noqa: F401  only whether it is there: what it offers cannot be pickled
        except ImportError as error:
            raise InputError(f"{source}: this vocabulary holds Chinese words, which jieba finds: {INSTALL}") from error
        self.version = f"rjieba {metadata.version('rjieba')}"  # its dictionary decides on the ids
        self._pieces = frozenset(pieces)
        self._normalize = normalize
        self._split = split
        self._remembered: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special tokens."""
        import rjieba

        ids: list[int] = []
        for word in rjieba.cut(self._normalize(text), hmm=False):
            known = self._remembered.get(word)
            ids += self._spell(word) if known is None else known
        return ids

    def _spell(self, word: str) -> list[int]:
        """The ids of a word, which are remembered."""
        parts = [word] if word in self._pieces else PART_OF_WORD.findall(word)
        ids = [piece.id for part in parts for piece in self._split(part)]
        if len(word) <= LONGEST_REMEMBERED and len(self._remembered) < WORDS_REMEMBERED:
            self._remembered[word] = ids
        return ids


def holds_chinese_words(pieces: Iterable[str]) -> bool:
    """Whether a vocabulary needs word segmentation: BERT, which parts all Chinese characters, finds no such piece."""
    return any(CHINESE_WORD.fullmatch(piece) for piece in pieces)


def marked(content: str) -> str:
    """A tokenizer.json that says that jieba finds its words.

    Hugging Face has no form for that. Its own files of a RoFormerTokenizer claim to split at spaces and punctuation,
    and the class in tokenizer_config.json tells otherwise. Ours are the same, with the mark as one more field of the
    pre-tokenizer, which the library tokenizers passes over.
    """
    fields = json.loads(content)
    fields["pre_tokenizer"][MARK] = JIEBA
    return json.dumps(fields, ensure_ascii=False, indent=2)


def take_mark(fields: dict[str, Any]) -> str | None:
    """The segmentation that a parsed tokenizer.json is marked with, taken out of it.

    Raises:
        ValueError: one that is not known here.
    """
    before = fields.get("pre_tokenizer")
    segmentation = before.pop(MARK, None) if isinstance(before, dict) else None
    if segmentation not in (None, JIEBA):
        raise ValueError(f"its {MARK} is {segmentation!r}; known here is {JIEBA!r}")
    return segmentation


def transformers_class(folder: Path) -> tuple[str | None, dict[str, bool | None] | None]:
    """The class that Hugging Face's configuration names for the tokenizer of a folder, as its AutoTokenizer looks.

    Returns:
        The class, or None where none is named; and, of a RoFormerTokenizer, what its BertNormalizer is made with.

    Raises:
        InputError: a configuration that cannot be read, or a setting of another type.
    """
    files = (folder / SETTINGS, folder / CONFIG)
    settings, config = (read_object(file) if file.exists() else {} for file in files)
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if not isinstance(named, str | None):
        raise InputError(f"{folder}: tokenizer_class = {named!r} is no name")
    if named is None and config.get("model_type") == "roformer":
        named = "RoFormerTokenizer"
    if named not in ("RoFormerTokenizer", "RoFormerTokenizerFast"):
        return named, None
    normalizer = {"lowercase": settings.get("do_lower_case", True), "strip_accents": settings.get("strip_accents")}
    if not isinstance(normalizer["lowercase"], bool) or not isinstance(normalizer["strip_accents"], bool | None):
        raise InputError(f"{folder / SETTINGS}: do_lower_case and strip_accents are true or false, got {normalizer}")
    return named, normalizer
