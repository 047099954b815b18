"""Similar case matching: is document B or document C more like document A (CAIL2019-SCM, section 4.5)?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from roformer_jax.data.examples import Examples
from roformer_jax.data.sources import read_table, split_by_content
from roformer_jax.errors import InputError

COLUMNS = ("A", "B", "C")


class Triples(NamedTuple):
    """Documents A, with B that is more like each of them than C is; `where` names their lines for error messages."""

    queries: list[str]
    similar: list[str]
    others: list[str]
    where: list[str]


def read_triples(path: str, encoding: str = "utf-8") -> Triples:
    """The triples of a table with columns A, B and C, of which B is more like A, as in the data that CAIL issued.

    Raises:
        InputError: what `read_table` refuses, a column that is missing among them; a document that is empty, or a B
            that is its C (file, line).
    """
    table = read_table(path, COLUMNS, encoding=encoding)
    triples = Triples(*(table.columns[name] for name in COLUMNS), table.where)
    for *documents, place in zip(*triples, strict=True):
        for name, document in zip(COLUMNS, documents, strict=True):
            if not document.strip():
                raise InputError(f"{place}: {name} is empty; a triple is three documents")
        if documents[1] == documents[2]:
            raise InputError(f"{place}: B and C are the same document, so neither is more like A")
    return triples


def split_triples(triples: Triples, holdout: float) -> tuple[list[int], list[int]]:
    """Indices of the triples to train on, none of whose documents is held out, and of those whose A is held out.

    A share `holdout` of the documents is, by the hash of their text, so that no A that is held out stands in a training
    triple, not even as an answer. Its B and C may; triples of neither kind are left out.
    """
    distinct = list(dict.fromkeys([*triples.queries, *triples.similar, *triples.others]))
    _, indices = split_by_content(distinct, holdout)
    heldout = {distinct[i] for i in indices}
    train, evaluation = [], []
    for i, documents in enumerate(zip(triples.queries, triples.similar, triples.others, strict=True)):
        if documents[0] in heldout:
            evaluation.append(i)
        elif not heldout & set(documents):
            train.append(i)
    return train, evaluation


def pairs_of(triples: Triples, indices: Sequence[int], seed: int) -> Examples:
    """Two examples for each triple, side by side: A with either of B and C, in an order drawn from `seed`.

    The label is 1 for B and 0 for C, as in the authors' `finetune_scm.py`.
    """
    swapped = np.random.default_rng(seed).random(len(triples.queries)) < 0.5
    texts, pairs, labels, where = [], [], [], []
    for i in indices:
        candidates = [(triples.similar[i], 1), (triples.others[i], 0)]
        for document, label in reversed(candidates) if swapped[i] else candidates:
            texts.append(triples.queries[i])
            pairs.append(document)
            labels.append(label)
            where.append(triples.where[i])
    return Examples(texts, pairs, np.array(labels, np.int32), where)
