"""Triples are read strictly, split by document, and become pairs whose order tells nothing."""

import gzip
import json

import numpy as np
import pytest

from roformer_jax.data.triples import Triples, pairs_of, read_triples, split_triples
from roformer_jax.errors import InputError

GOOD = {"A": "甲", "B": "乙", "C": "丙"}


@pytest.fixture
def file(tmp_path):
    """`file(row, ...)`: a packed file of JSON lines."""

    def file(*rows):
        path = tmp_path / "triples.jsonl.gz"
        path.write_bytes(gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()))
        return str(path)

    return file


def made_up(documents, count):
    """Triples of numbered documents, no two alike in one."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice(documents, 3, replace=False) for _ in range(count)]
    return Triples(*([f"document {row[k]}" for row in drawn] for k in range(3)), [f"t:{i}" for i in range(count)])


def test_triples_are_read_from_lines_of_json(file):
    triples = read_triples(file(GOOD, {"C": "c", "A": "a", "B": "b"}))
    assert (triples.queries, triples.similar, triples.others) == (["甲", "a"], ["乙", "b"], ["丙", "c"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"A": "a", "B": "b"}, r"triples\.jsonl\.gz:2: keys \['A', 'B'\] where the first line has \['A', 'B', 'C'\]"),
        (GOOD | {"B": " "}, r"triples\.jsonl\.gz:2: B is empty; a triple is three documents"),
        (GOOD | {"C": "乙"}, r"triples\.jsonl\.gz:2: B and C are the same document, so neither is more like A"),
    ],
)
def test_what_is_no_triple_is_refused_by_file_and_line(file, row, message):
    with pytest.raises(InputError, match=message):
        read_triples(file(GOOD, row))


def test_no_question_that_is_held_out_stands_in_a_training_triple():
    triples = made_up(60, 400)
    train, evaluation = split_triples(triples, 0.3)
    trained_on = {column[i] for i in train for column in triples[:3]}
    assert train and evaluation and not set(train) & set(evaluation)
    assert not trained_on & {triples.queries[i] for i in evaluation}


def test_a_triple_becomes_two_pairs_in_an_order_that_the_seed_draws():
    triples = made_up(60, 400)
    examples = pairs_of(triples, range(400), seed=3)
    labels = examples.labels.reshape(-1, 2)
    np.testing.assert_array_equal(labels.sum(axis=1), 1)
    assert 0.4 < labels[:, 0].mean() < 0.6, "the place of B would tell it"
    for row, (text, pair, label) in enumerate(zip(examples.texts, examples.pairs, examples.labels, strict=True)):
        assert text == triples.queries[row // 2]
        assert pair == (triples.similar if label else triples.others)[row // 2]
    again, other = (pairs_of(triples, range(400), seed).labels for seed in (3, 4))
    np.testing.assert_array_equal(again, examples.labels)
    assert np.any(other != examples.labels)
    np.testing.assert_array_equal(pairs_of(triples, [7], seed=3).labels, labels[7])  # whichever others there are
