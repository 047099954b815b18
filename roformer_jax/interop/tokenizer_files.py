"""A tokenizer as transformers' AutoTokenizer takes it: the same ids, with [CLS] and [SEP] around the texts."""

import json
from pathlib import Path
from typing import Any

from roformer_jax.data.tokenizer import Tokenizer

TOKENIZER, SETTINGS, VOCABULARY = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def write_tokenizer(folder: Path, tokenizer: Tokenizer, length: int) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and, of WordPiece vocabularies, `vocab.txt`.

    Args:
      folder: an existing folder.
      tokenizer: a run's.
      length: tokens of the longest text that its model should read.
    """
    tokenizer.save(folder / TOKENIZER)
    content = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    content["post_processor"] = around_texts({"[CLS]": int(tokenizer.cls_id), "[SEP]": int(tokenizer.sep_id)})
    _write(folder / TOKENIZER, content)
    kind: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if tokenizer.segmentation is not None:  # jieba's words: the class of transformers that finds them
        normalizer = content["normalizer"]
        kind = {"tokenizer_class": "RoFormerTokenizer", "do_lower_case": normalizer["lowercase"]}
        kind["strip_accents"] = normalizer["strip_accents"]
    _write(folder / SETTINGS, kind | {"model_max_length": length} | NAMES)
    if tokenizer.is_continuation is not None:
        pieces = (tokenizer.token(i) for i in range(tokenizer.vocab_size))
        (folder / VOCABULARY).write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")


def around_texts(ids: dict[str, int]) -> dict[str, Any]:
    """What makes [CLS] A [SEP], or [CLS] A [SEP] B [SEP] with types 0 and 1, in the form of tokenizer.json."""

    def special(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), special("[SEP]", 1)],
        "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ids.items()},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
