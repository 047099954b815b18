"""WordPiece, BPE and byte tokenizers, trained, loaded, checked; ids out, never a special token the text asked for."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from roformer_jax.data.chinese import JIEBA, WordEncoder, holds_chinese_words, marked, take_mark, transformers_class
from roformer_jax.errors import InputError
from roformer_jax.typing import Int

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
FIRST_BYTE_ID = len(SPECIAL_TOKENS)
# Characters a trained vocabulary keeps, most frequent first: the value of Google's BERT vocabularies.
ALPHABET_LIMIT = 1000
# Letters of a word beyond which it is [UNK], as in BERT.
LONGEST_WORD = 100
# Texts handed to the Rust side at once, so that the encodings of a large corpus are never all in memory.
ENCODE_CHUNK = 4096


class Tokenizer:
    """A tokenizer whose ids are checked: contiguous from 0, the five special tokens of BERT present.

    Attributes:
        segmentation: what finds the words of a text before they are looked up: "jieba" for Chinese, else None.
        vocab_size: number of ids V; every id lies in [0, V).
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens.
        is_continuation: bool[V], True for pieces that continue a word ("##ing"); None when the model is not WordPiece.
            A Chinese word of the vocabulary is one piece; of another, each character is a word of its own.
        fingerprint: sha256 of the tokenizer's JSON, in hexadecimal; with a segmentation, also of its version.
    """

    def __init__(self, backend: tokenizers.Tokenizer, source: str, segmentation: str | None = None):
        """Takes over `backend`; `source` names it in error messages."""
        tokens = _contiguous_tokens(backend, source)
        missing = [token for token in SPECIAL_TOKENS if token not in tokens]
        if missing:
            raise InputError(
                f"{source}: special tokens {missing} are missing; all of {list(SPECIAL_TOKENS)} are needed"
            )
        backend.encode_special_tokens = True  # "[MASK]" written in a text is text
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._tokens = tokens
        self.vocab_size = len(tokens)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(tokens.index, SPECIAL_TOKENS)
        self.is_continuation = None
        if isinstance(backend.model, models.WordPiece):
            prefix = backend.model.continuing_subword_prefix
            self.is_continuation = np.array([token.startswith(prefix) and token != prefix for token in tokens])
        self.segmentation = segmentation
        self._words = None if segmentation is None else _word_encoder(backend, source)
        version = "" if self._words is None else self._words.version
        self.fingerprint = hashlib.sha256((self._to_json(pretty=False) + version).encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[Int[np.ndarray, "_"]]:
        """Encodes each text to int32 ids, without special tokens.

        Raises:
            InputError: an item is not a str, or holds a lone surrogate; the message names its index.
        """
        ids = []
        for start in range(0, len(texts), ENCODE_CHUNK):
            chunk = list(texts[start : start + ENCODE_CHUNK])
            try:
                ids.extend(np.array(of_text, np.int32) for of_text in self._encode_chunk(chunk))
            except (TypeError, UnicodeEncodeError) as error:
                raise InputError(_first_bad_text(chunk, start)) from error
        return ids

    def _encode_chunk(self, texts: list[str]) -> Iterator[list[int]]:
        if self._words is not None:
            return map(self._words.encode, texts)
        return (encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False))

    def decode(self, ids: Sequence[int] | Int[np.ndarray, "_"]) -> str:
        """Joins the pieces of `ids` to text; special tokens are kept."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def token(self, token_id: int | np.integer) -> str:
        """The piece that `token_id` stands for."""
        return self._tokens[token_id]

    def save(self, path: str | Path) -> None:
        """Writes a tokenizer.json that `load_tokenizer` and Hugging Face read.

        What it says of a segmentation only `load_tokenizer` understands: Hugging Face gives the same ids if a
        tokenizer_config.json beside the file names RoFormerTokenizer and do_lower_case, else [UNK] for Chinese.
        """
        Path(path).write_text(self._to_json(pretty=True), encoding="utf-8")

    def _to_json(self, *, pretty: bool) -> str:
        content = self._backend.to_str(pretty=pretty)
        return content if self.segmentation is None else marked(content)


def train_wordpiece(texts: Iterable[str], *, vocab_size: int, lowercase: bool = True) -> Tokenizer:
    """Trains a BERT WordPiece vocabulary; the same texts always give the same ids.

    Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then the "##c" alphabet, the alphabet, and the merges. Left
    alone, tokenizers numbers the "##c" in the order of a randomised hash map, and those numbers decide between merges
    of equal count. Naming them beforehand, as special tokens, makes the result a function of the texts. Words of more
    than `LONGEST_WORD` letters are left out: training takes their length squared, hours for a megabyte without a space.

    Raises:
        InputError: no characters in `texts`, or `vocab_size` does not exceed special tokens and alphabet.
    """
    texts = list(texts)
    shell = _bert_tokenizer({}, lowercase)
    alphabet = _alphabet(texts, shell)
    if not alphabet:
        raise InputError("cannot train a tokenizer: the texts hold no characters")
    continuing = [CONTINUATION + c for c in alphabet if _can_continue(c, shell)]
    base_size = len(SPECIAL_TOKENS) + len(continuing) + len(alphabet)
    if vocab_size <= base_size:
        raise InputError(
            f"vocab_size={vocab_size} leaves no room for words: special tokens and alphabet are {base_size}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *continuing],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    without_endless = pre_tokenizers.Split(tokenizers.Regex(f"^.{{{LONGEST_WORD + 1},}}$"), "removed")
    shell.pre_tokenizer = pre_tokenizers.Sequence([shell.pre_tokenizer, without_endless])
    shell.train_from_iterator(texts, trainer)
    return Tokenizer(_bert_tokenizer(shell.get_vocab(), lowercase), "trained tokenizer")


def byte_tokenizer() -> Tokenizer:
    """The tokenizer of byte-level models: the special tokens, then byte b of the UTF-8 text as id FIRST_BYTE_ID + b."""
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *_byte_characters()])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(backend, "byte tokenizer")


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Trains byte-pair encoding (Sennrich et al. 2016) on the bytes of words and the space before each, as GPT-2's.

    Every text is the decoding of its ids, but for a space in front. Ids: special tokens, bytes, merges.

    Raises:
        InputError: `vocab_size` does not exceed special tokens and bytes.
    """
    if vocab_size <= FIRST_BYTE_ID + 256:
        raise InputError(f"vocab_size={vocab_size} leaves no room for merges: special tokens and bytes are 261")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    kept = {"special_tokens": list(SPECIAL_TOKENS), "initial_alphabet": _byte_characters()}
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, **kept)
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, "trained tokenizer")


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Loads a vocab.txt (BERT WordPiece), a tokenizer.json, or a folder that holds either (tokenizer.json first).

    A vocab.txt is read as uncased unless one of its pieces holds an upper-case letter, and with jieba's segmentation if
    one is a Chinese word of several characters, which BERT would never find. Where Hugging Face's configuration in the
    same folder names the class of the tokenizer, that decides instead: RoFormerTokenizer segments, others do not.

    Raises:
        InputError: no such file, damaged content, ids that are not 0..V-1, a special token missing, or no jieba for a
            vocabulary that needs it.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()]
        if not found:
            raise InputError(f"{path}: the folder holds neither tokenizer.json nor vocab.txt")
        path = found[0]
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read the tokenizer: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
    named, normalizer = transformers_class(folder)
    if path.suffix == ".json":
        backend, segmentation = _parse_json(content, path)
    else:
        vocab, lowercase = _parse_vocabulary(content, path)
        backend, segmentation = _bert_tokenizer(vocab, lowercase), None
        if named is None and holds_chinese_words(vocab):
            normalizer = {"lowercase": lowercase}
    if normalizer is not None and segmentation is None:
        backend.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False, **normalizer)
        segmentation = JIEBA
    return Tokenizer(backend, str(path), segmentation)


def _bert_tokenizer(vocab: dict[str, int], lowercase: bool) -> tokenizers.Tokenizer:
    """The pipeline of BERT: clean, lower-case and strip accents, split at spaces, punctuation, Chinese characters."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    if vocab:
        backend.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocab])
    return backend


def _word_encoder(backend: tokenizers.Tokenizer, source: str) -> WordEncoder:
    """What looks up jieba's words: in WordPiece, as RoFormer does, and no tokens besides, which jieba would part."""
    if not isinstance(backend.model, models.WordPiece) or backend.normalizer is None:
        raise InputError(f"{source}: jieba's words are looked up in a WordPiece vocabulary, behind a normalizer")
    added = {token.content for token in backend.get_added_tokens_decoder().values()} - set(SPECIAL_TOKENS)
    if added:
        raise InputError(f"{source}: added tokens {sorted(added)[:3]} cannot be kept whole where jieba finds the words")
    return WordEncoder(backend.get_vocab(), backend.normalizer.normalize_str, backend.model.tokenize, source)


def _byte_characters() -> list[str]:
    """The visible character that stands for each byte in byte-level vocabularies (GPT-2, `bytes_to_unicode`)."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = sorted(set(range(256)) - visible)
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def _alphabet(texts: list[str], shell: tokenizers.Tokenizer) -> list[str]:
    """The `ALPHABET_LIMIT` most frequent characters after normalisation, sorted; equal counts by code point."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(shell.normalizer.normalize_str(text))
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    return sorted(ranked[:ALPHABET_LIMIT])


def _can_continue(character: str, shell: tokenizers.Tokenizer) -> bool:
    """Whether the character can stand inside a word: punctuation and Chinese characters are words by themselves."""
    normalized = shell.normalizer.normalize_str(f"x{character}x")
    return len(shell.pre_tokenizer.pre_tokenize_str(normalized)) == 1


def _contiguous_tokens(backend: tokenizers.Tokenizer, source: str) -> list[str]:
    """Tokens in the order of their ids, which must be 0..V-1: a stray id would index past the embedding."""
    vocab = backend.get_vocab(with_added_tokens=True)
    by_id = sorted(vocab.items(), key=lambda item: item[1])
    for expected, (token, token_id) in enumerate(by_id):
        if token_id != expected:
            raise InputError(f"{source}: token {token!r} has id {token_id}, expected {expected} (ids must be 0..V-1)")
    return [token for token, _ in by_id]


def _parse_vocabulary(content: str, path: Path) -> tuple[dict[str, int], bool]:
    """The ids of a vocab.txt, a piece a line, and whether it is for lower-case text."""
    pieces = content.removesuffix("\n").split("\n")
    repeated = [piece for piece, count in Counter(pieces).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: {repeated[:3]} stand on more than one line; each line is one id")
    cased = any(piece != piece.lower() for piece in pieces if not piece.startswith(("[", "<")))
    return {piece: i for i, piece in enumerate(pieces)}, not cased


def _parse_json(content: str, path: Path) -> tuple[tokenizers.Tokenizer, str | None]:
    """Parses a tokenizer.json, with its segmentation; JSON errors are told apart from what tokenizers refuses.

    An added token gets the next free id from tokenizers, whatever id the file gives it: refused where they differ.
    """
    try:
        fields = json.loads(content)
        added = fields.get("added_tokens", [])
        segmentation = take_mark(fields)
        backend = tokenizers.Tokenizer.from_str(content if segmentation is None else json.dumps(fields))
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{path}: not a tokenizer.json: {error}") from error
    for token in added:
        expected = backend.token_to_id(token["content"])
        if token["id"] != expected:
            raise InputError(
                f"{path}: token {token['content']!r} has id {token['id']}, expected {expected} (ids must be 0..V-1)"
            )
    return backend, segmentation


def _first_bad_text(texts: Sequence[object], start: int) -> str:
    """Says which text the tokenizer refused, and why."""
    for i, text in enumerate(texts, start):
        if not isinstance(text, str):
            return f"text {i} is a {type(text).__name__}, not a str"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"text {i} holds a lone surrogate {text[error.start]!r} at character {error.start}"
    return "the tokenizer refused a text"
