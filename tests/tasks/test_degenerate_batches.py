"""Batches with hardly anything in them, or with anything that the cache accepts: always a finite loss and gradient."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roformer_jax.data.bounds import LARGEST, ranges_of, violation
from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.data.packing import pack_documents, pack_examples
from roformer_jax.data.tokenizer import train_wordpiece
from roformer_jax.models import Model, build_causal_lm, build_classifier, build_masked_lm
from roformer_jax.tasks.causal_lm import causal_lm_loss
from roformer_jax.tasks.classification import classification_loss, regression_loss
from roformer_jax.tasks.masked_lm import masked_lm_loss
from tests.tasks.made_up import VOCAB, model_config, sentences

EPS = float(np.finfo(np.float32).eps)
ROWS, LENGTH, WIDTH, CLASSES, EXAMPLES = 3, 16, 16, 3, 2
TERMS = LENGTH + 4 * WIDTH + VOCAB  # what a logit of one layer, and its softmax, sum over
TOKENS = {"ids": VOCAB, "segment_ids": LENGTH + 1}
MASKED = {"masked_positions": LENGTH, "masked_labels": VOCAB, "masked_weights": 2}
LABELLED = {"token_type_ids": 2, "starts": LENGTH, "example_ids": 9}
EVERYTHING = MaskingConfig(probability=1.0)


class Kind(NamedTuple):
    """A task's model at initialisation, its loss, what its batches may hold, and the shape of a row's predictions."""

    model: Model
    loss: Callable
    bounds: dict[str, int | None]
    predictions: int


def kinds():
    sizes = dict(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=WIDTH)
    config = model_config(**sizes, max_position_embeddings=LENGTH)
    linear = model_config(**sizes, attention="linear", attention_probs_dropout_prob=0.0)
    masked, causal, recurrent = build_masked_lm(config), build_causal_lm(config), build_causal_lm(linear)
    classes, score = build_classifier(config, CLASSES), build_classifier(config, 1)
    return {
        "masked": Kind(masked, masked_lm_loss(masked), TOKENS | MASKED, LENGTH),
        "causal": Kind(causal, causal_lm_loss(causal), TOKENS, 0),
        "linear": Kind(recurrent, causal_lm_loss(recurrent), TOKENS, 0),
        "classes": Kind(classes, classification_loss(classes), TOKENS | LABELLED | {"labels": CLASSES}, EXAMPLES),
        "score": Kind(score, regression_loss(score), TOKENS | LABELLED | {"labels": None}, EXAMPLES),
    }


class Compiled(NamedTuple):
    """A kind, `evaluate(batch) -> sums, gradients` at its initial parameters, and the same for the sums alone."""

    kind: Kind
    evaluate: Callable
    sums: Callable


@pytest.fixture(scope="module", params=["masked", "causal", "linear", "classes", "score"])
def compiled(request):
    kind = kinds()[request.param]
    params = kind.model.init(jax.random.key(0))

    def loss_and_sums(params, batch):
        sums = kind.loss(params, batch, None)
        return sums["loss"], sums

    gradient = jax.jit(jax.value_and_grad(loss_and_sums, has_aux=True))

    def evaluate(batch):
        (_, sums), gradients = gradient(params, batch)
        return sums, gradients

    sums = jax.jit(lambda batch: kind.loss(params, batch, None))
    return Compiled(kind, evaluate, sums)


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(sentences(60, seed=0), vocab_size=VOCAB)


def shape_of(kind, name):
    return ROWS, LENGTH if name in (*TOKENS, "token_type_ids") else kind.predictions


def dtype_of(kind, name):
    return np.float32 if name == "masked_weights" or kind.bounds[name] is None else np.int32


def empty_batch(kind):
    return {name: np.zeros(shape_of(kind, name), dtype_of(kind, name)) for name in kind.bounds}


def batch_of(kind, texts, tokenizer):
    """The packed texts in the first rows, everything that can be masked masked, and empty rows after them."""
    ids = tokenizer.encode(texts)
    if "labels" in kind.bounds:
        labels = np.ones(len(texts), dtype_of(kind, "labels"))
        rows = list(pack_examples(ids, None, labels, tokenizer, LENGTH))
    else:
        rows = list(pack_documents(ids, tokenizer, LENGTH))
    if "masked_labels" in kind.bounds:
        rng = np.random.default_rng(0)
        rows = [mask_row(**row, config=EVERYTHING, tokenizer=tokenizer, rng=rng) for row in rows]
    batch = empty_batch(kind)
    for i, row in enumerate(rows):
        for name, values in row.items():
            batch[name][i, : len(values)] = values
    return batch


DEGENERATE = {
    "no text at all": [],
    "an empty text": [""],
    "one token": ["rotate"],
    "a text of unknown letters": ["旋转 位置 编码"],
    "a row without padding": ["the " * 14],
    "a text longer than a row": ["the " * 20],
}


@pytest.mark.parametrize("texts", DEGENERATE.values(), ids=DEGENERATE)
def test_hardly_anything_gives_a_finite_loss_and_gradient(compiled, tokenizer, texts):
    sums, gradients = compiled.evaluate(batch_of(compiled.kind, texts, tokenizer))
    chex.assert_tree_all_finite((sums, gradients))
    if not texts:
        chex.assert_trees_all_equal((sums, gradients), jax.tree.map(np.zeros_like, (sums, gradients)))


def test_what_stands_where_there_is_no_text_moves_no_bit(compiled, tokenizer):
    kind = compiled.kind
    batch = batch_of(kind, ["the query", "the key"], tokenizer)
    padding = batch["segment_ids"] == 0
    assert padding[0].any() and padding[1:].all()
    garbage = dict(batch)
    for name in {"ids", "token_type_ids"} & set(batch):
        drawn = np.random.default_rng(1).integers(1, kind.bounds[name], batch[name].shape, np.int32)
        garbage[name] = np.where(padding, drawn, batch[name])
    expected, found = compiled.evaluate(batch), compiled.evaluate(garbage)
    assert expected[0]["weight"] > 0
    chex.assert_trees_all_equal(found, expected)


def test_a_batch_of_one_row_has_the_loss_it_has_beside_empty_rows(compiled, tokenizer):
    """The products of other sizes may add in another order, so not bitwise."""
    batch = batch_of(compiled.kind, ["the query", "the key"], tokenizer)
    found, (expected, _) = compiled.sums({name: rows[:1] for name, rows in batch.items()}), compiled.evaluate(batch)
    assert found["weight"] == expected["weight"] > 0
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=TERMS * EPS)


def arrays(kind, name):
    bound = kind.bounds[name]
    dtype = np.dtype(dtype_of(kind, name))
    if bound is None:
        elements = st.floats(-LARGEST, LARGEST, width=32)
    else:
        elements = st.integers(0, bound - 1).map(dtype.type)
    return hnp.arrays(dtype, shape_of(kind, name), elements=elements)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_whatever_the_cache_accepts_has_a_finite_loss_and_gradient_at_initialisation(compiled, data):
    """Any values within the bounds, also those that no packing makes."""
    kind = compiled.kind
    batch = data.draw(st.fixed_dictionaries({name: arrays(kind, name) for name in kind.bounds}))
    cached = {name: rows for name, rows in batch.items() if name != "masked_weights"}  # made from it, not kept in it
    assert violation(ranges_of(cached), {name: kind.bounds[name] for name in cached}) is None
    chex.assert_tree_all_finite(compiled.evaluate(batch))
