import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.models import Model, build_causal_lm
from roformer_jax.tasks.causal_lm import causal_lm_loss, causal_lm_task
from roformer_jax.tasks.corpus import StreamConfig, prepare_stream
from tests.models.parameters import random_params
from tests.tasks.made_up import LENGTH, mesh_of, model_config, placed_params, sentences, train

EPS = float(np.finfo(np.float32).eps)
STEPS = 20


@pytest.fixture(scope="session")
def stream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    (folder / "text").write_text("\n".join(sentences(120, seed=2)), encoding="utf-8")
    config = StreamConfig(path=str(folder / "text"), length=LENGTH, holdout=0.2)
    return prepare_stream(config, vocab_size=261, cache_dir=str(folder / "cache"))


def make_task(corpus, mesh, *, batch_size=6, microbatches=1, **fields):
    config = model_config(**{"vocab_size": 261} | fields)
    return causal_lm_task(corpus, config, mesh=mesh, batch_size=batch_size, microbatches=microbatches, seed=3)


def fake_model(logits):
    return Model(init=lambda key: {}, apply=lambda *arguments, **keywords: jnp.asarray(logits), axes={})


def test_every_token_but_the_first_of_a_segment_is_predicted_from_the_logits_before_it():
    logits = np.random.default_rng(0).normal(size=(2, 6, 9)).astype(np.float32)
    ids = np.array([[1, 2, 3, 4, 5, 0], [8, 7, 6, 5, 4, 3]])
    segments = np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    predicted = [(0, 1), (0, 3), (0, 4), *[(1, i) for i in range(1, 6)]]
    wide = logits.astype(np.float64)
    losses = [np.log(np.exp(wide[r, i - 1]).sum()) - wide[r, i - 1, ids[r, i]] for r, i in predicted]
    right = sum(logits[r, i - 1].argmax() == ids[r, i] for r, i in predicted)
    sums = causal_lm_loss(fake_model(logits))({}, {"ids": jnp.asarray(ids), "segment_ids": jnp.asarray(segments)}, None)
    # A term is a difference of two numbers below max |logit| + log 9, rounded to float32.
    atol = 4 * len(predicted) * (float(np.abs(logits).max()) + 3) * EPS
    np.testing.assert_allclose(sums["loss"], sum(losses), rtol=0, atol=atol)
    assert (sums["weight"], sums["accuracy"]) == (len(predicted), right)


def test_packed_documents_have_the_loss_they_have_alone(corpus):
    model = build_causal_lm(model_config())
    loss = jax.jit(causal_lm_loss(model), static_argnums=2)
    row = next(row for row in map(corpus.train.__getitem__, range(len(corpus.train))) if row["segment_ids"].max() > 2)
    segments = range(1, row["segment_ids"].max() + 1)
    alone = {name: np.zeros((len(segments), LENGTH), np.int32) for name in ("ids", "segment_ids")}
    for i, segment in enumerate(segments):
        ids = row["ids"][row["segment_ids"] == segment]
        alone["ids"][i, : len(ids)], alone["segment_ids"][i, : len(ids)] = ids, 1
    packed = {name: np.zeros_like(rows) for name, rows in alone.items()}
    for name in packed:
        packed[name][0] = row[name]
    params = random_params(model, scale=0.1)
    expected, found = loss(params, alone, None), loss(params, packed, None)
    assert expected["weight"] == found["weight"] > 2
    chex.assert_trees_all_close(found, expected, rtol=500 * EPS)  # sums of some 300 terms for each of the logits


@pytest.mark.parametrize("fields", [{}, {"attention": "linear", "attention_probs_dropout_prob": 0.0}])
def test_a_language_model_learns_bytes_alike_on_any_number_of_devices(stream, fields):
    meshes = mesh_of(1), mesh_of(8, fsdp=2, tensor=2, sequence=2)
    reference, found = (train(make_task(stream, mesh, **fields), mesh, STEPS)[1] for mesh in meshes)
    assert reference[-1] < reference[0] - 0.5, "nothing was learnt"
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_evaluation_gives_bits_per_byte_and_the_unigram_loss(stream):
    mesh = mesh_of(1)
    task = make_task(stream, mesh)
    with jax.set_mesh(mesh):
        metrics = task.evaluate(placed_params(task, mesh))
    assert metrics["bits_per_byte"] == pytest.approx(metrics["loss"] / math.log(2), rel=1e-12)
    train_ids, heldout_ids = (
        np.concatenate([rows[i]["ids"] for i in range(len(rows))]) for rows in (stream.train, stream.heldout)
    )
    counts = 1 + np.bincount(train_ids, minlength=261)
    predicted = np.delete(heldout_ids, np.s_[::LENGTH])
    expected = -np.mean(np.log(counts / counts.sum())[predicted])
    assert metrics["unigram_loss"] == pytest.approx(expected, rel=1e-12)


def test_documents_are_measured_in_bits_per_token(corpus):
    mesh = mesh_of(1)
    task = make_task(corpus, mesh, vocab_size=96)
    with jax.set_mesh(mesh):
        assert set(task.evaluate(placed_params(task, mesh))) == {"loss", "accuracy", "bits_per_token", "unigram_loss"}
