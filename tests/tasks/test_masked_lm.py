from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.models import Model, build_masked_lm
from roformer_jax.tasks.corpus import Corpus
from roformer_jax.tasks.masked_lm import fill_mask, masked_lm_loss, masked_lm_task, unigram_cross_entropy
from tests.models.parameters import random_params
from tests.tasks.made_up import (
    ENCODINGS,
    HIDDEN,
    LAYERS,
    LENGTH,
    WIDTH,
    mesh_of,
    model_config,
    placed_params,
    train,
)

EPS = float(np.finfo(np.float32).eps)
MASKING = MaskingConfig(probability=0.3)
STEPS = 20
# Each block sums over the keys, four times the width and the hidden units; a gradient sums over the tokens besides.
TERMS = LAYERS * (LENGTH + 4 * WIDTH + HIDDEN) + LENGTH


def make_task(corpus, mesh, *, batch_size=6, microbatches=1, **fields):
    config = model_config(**fields)
    return masked_lm_task(
        corpus, config, MASKING, mesh=mesh, batch_size=batch_size, microbatches=microbatches, seed=3
    )  # fmt: skip


def one_document_per_row(row):
    """Every document of a masked row at the start of a row of its own, with the same masks."""
    segments = range(1, row["segment_ids"].max() + 1)
    alone = {name: np.zeros((len(segments), *value.shape), value.dtype) for name, value in row.items()}
    for i, segment in enumerate(segments):
        places = np.flatnonzero(row["segment_ids"] == segment)
        alone["ids"][i, : len(places)] = row["ids"][places]
        alone["segment_ids"][i, : len(places)] = 1
        mine = (row["segment_ids"][row["masked_positions"]] == segment) & (row["masked_weights"] > 0)
        for name in ("masked_labels", "masked_weights"):
            alone[name][i, : mine.sum()] = row[name][mine]
        alone["masked_positions"][i, : mine.sum()] = row["masked_positions"][mine] - places[0]
    return alone


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_packed_documents_have_the_loss_and_gradients_they_have_alone(corpus, encoding):
    model = build_masked_lm(model_config(position_encoding=encoding))
    loss = masked_lm_loss(model)
    row = next(row for row in map(corpus.train.__getitem__, range(len(corpus.train))) if row["segment_ids"].max() > 2)
    rng = np.random.default_rng(0)
    row = mask_row(row["ids"], row["segment_ids"], config=MASKING, tokenizer=corpus.tokenizer, rng=rng)
    alone = one_document_per_row(row)
    packed = {name: np.zeros_like(rows) for name, rows in alone.items()}  # empty rows, so that both have one shape
    for name, value in row.items():
        packed[name][0] = value
    assert alone["masked_weights"].sum() == packed["masked_weights"].sum() > 2

    def loss_and_sums(params, batch):
        sums = loss(params, batch, None)
        return sums["loss"], sums

    params = random_params(model, scale=0.1)
    gradient = jax.jit(jax.grad(loss_and_sums, has_aux=True))
    (expected, expected_sums), (found, found_sums) = gradient(params, alone), gradient(params, packed)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    chex.assert_trees_all_close(found, expected, rtol=0, atol=TERMS * EPS * largest)
    chex.assert_trees_all_close(found_sums, expected_sums, rtol=TERMS * EPS)


def test_any_number_of_devices_gives_the_same_losses_with_dropout(corpus):
    """Six rows a step: two empty ones are added on eight devices, and the bits of the others do not move."""
    meshes = [mesh_of(1), mesh_of(8)]
    meshes += [mesh_of(8, **axes) for axes in ({"fsdp": 4}, {"tensor": 4}, {"sequence": 4})]
    meshes += [mesh_of(8, fsdp=2, tensor=2, sequence=2)]
    reference, *others = (train(make_task(corpus, mesh), mesh, STEPS)[1] for mesh in meshes)
    assert reference[-1] < reference[0] - 0.5, "nothing was learnt"
    for found in others:
        np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_microbatches_cut_a_batch_without_changing_the_update(corpus):
    """Without dropout, whose bits are drawn anew for every microbatch."""
    mesh, sgd = mesh_of(1), optax.sgd(1.0)
    rates = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    updates = {}
    for microbatches in (1, 2, 4):
        task = make_task(corpus, mesh, batch_size=8, microbatches=microbatches, **rates)
        with jax.set_mesh(mesh):
            before = placed_params(task, mesh)
        state, losses = train(task, mesh, 1, sgd)
        updates[microbatches] = jax.tree.map(np.subtract, before, state.params), losses
    (expected, expected_loss), *others = updates.values()
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    # The same terms as between packed and lone documents, and the update is a difference of parameters of size 1.
    atol = (TERMS * largest + 2) * EPS
    for found, loss in others:
        chex.assert_trees_all_close(found, expected, rtol=0, atol=atol)
        np.testing.assert_allclose(loss, expected_loss, rtol=TERMS * EPS)


def test_evaluation_is_the_same_for_any_batch_size_and_number_of_devices(corpus):
    found = []
    for devices, batch_size in ((1, 64), (1, 7), (8, 7), (8, 1)):
        mesh = mesh_of(devices)
        task = make_task(corpus, mesh, batch_size=batch_size)
        with jax.set_mesh(mesh):
            found.append(task.evaluate(placed_params(task, mesh)))
    expected = found[0]
    assert set(expected) == {"loss", "accuracy", "unigram_loss"}
    for other in found[1:]:
        assert other == pytest.approx(expected, rel=TERMS * EPS)


def test_training_batches_fit_the_task(corpus):
    task = make_task(corpus, mesh_of(1), batch_size=8, microbatches=2)
    batch = task.batches[0]
    assert {name: rows.shape for name, rows in batch.items()} == {
        "ids": (2, 4, LENGTH),
        "segment_ids": (2, 4, LENGTH),
        "masked_positions": (2, 4, MASKING.positions(LENGTH)),
        "masked_labels": (2, 4, MASKING.positions(LENGTH)),
        "masked_weights": (2, 4, MASKING.positions(LENGTH)),
    }
    rows, real = len(corpus.train), corpus.train.metadata["real_tokens"]
    assert task.steps_per_epoch == -(-rows // 8)
    assert task.tokens_per_step == 8 * real / rows
    assert task.fingerprint == corpus.fingerprint


def fake_model(outputs):
    """A model that gives the same outputs to whatever it is asked."""
    return Model(init=lambda key: {}, apply=lambda *arguments, **keywords: jnp.asarray(outputs), axes={})


def masked_batch(labels, weights):
    labels = jnp.asarray(labels, jnp.int32)
    ids = jnp.zeros((labels.shape[0], 4), jnp.int32)
    positions = jnp.zeros_like(labels)
    return {
        "ids": ids, "segment_ids": ids, "masked_positions": positions, "masked_labels": labels,
        "masked_weights": jnp.asarray(weights, jnp.float32),
    }  # fmt: skip


def test_loss_is_the_weighted_sum_of_cross_entropies():
    rng = np.random.default_rng(0)
    logits = (10 * rng.normal(size=(3, 5, 11))).astype(np.float32)
    labels, weights = rng.integers(0, 11, (3, 5)), rng.integers(0, 2, (3, 5))
    labels[0, 0], weights[0, 0] = logits[0, 0].argmax(), 1
    wide = logits.astype(np.float64)
    picked = np.take_along_axis(wide, labels[..., None], axis=-1)[..., 0]
    cross_entropies = np.log(np.exp(wide).sum(axis=-1)) - picked
    sums = masked_lm_loss(fake_model(logits))({}, masked_batch(labels, weights), None)
    # Each term is a difference of two numbers below max |logit| + log 11, rounded to float32.
    atol = 4 * labels.size * (float(np.abs(logits).max()) + 3) * EPS
    np.testing.assert_allclose(sums["loss"], np.sum(cross_entropies * weights), rtol=0, atol=atol)
    assert sums["weight"] == weights.sum()
    assert sums["accuracy"] == np.sum((logits.argmax(axis=-1) == labels) * weights)


@pytest.mark.parametrize("label", [11, -1])
def test_a_label_outside_the_vocabulary_gives_a_nan_loss(label):
    sums = masked_lm_loss(fake_model(np.zeros((1, 2, 11), np.float32)))({}, masked_batch([[label, 3]], [[1, 1]]), None)
    assert np.isnan(sums["loss"])


def test_unigram_cross_entropy_worked_by_hand():
    """[CLS] 0 and [SEP] 1 are not counted, padding neither: 2 stands there three times, 3 once, 4 never."""
    tokenizer = SimpleNamespace(vocab_size=5, cls_id=0, sep_id=1)
    rows = [
        {"ids": np.array([0, 2, 2, 1]), "segment_ids": np.array([1, 1, 1, 1])},
        {"ids": np.array([0, 2, 3, 4]), "segment_ids": np.array([1, 1, 1, 0])},
    ]
    batches = [
        {"masked_labels": np.array([[2, 3]]), "masked_weights": np.array([[1.0, 1.0]])},
        {"masked_labels": np.array([[4, 0]]), "masked_weights": np.array([[1.0, 0.0]])},
    ]
    probabilities = {2: 4 / 9, 3: 2 / 9, 4: 1 / 9}  # (counts + 1) / (4 tokens + 5 ids)
    expected = -np.mean([np.log(probabilities[token]) for token in (2, 3, 4)])
    assert unigram_cross_entropy(Corpus(tokenizer, rows, rows), batches) == pytest.approx(expected, rel=1e-12)


def test_fill_mask_ranks_tokens_by_probability():
    logits = np.log(np.array([[[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]], np.float32))
    batch = jax.tree.map(np.asarray, masked_batch([[0, 0]], [[1, 1]]))
    ids, probabilities = fill_mask(fake_model(logits), {}, batch, 2)
    np.testing.assert_array_equal(ids, [[[1, 2], [0, 2]]])
    np.testing.assert_allclose(probabilities, [[[0.6, 0.3], [0.5, 0.3]]], rtol=8 * EPS)
