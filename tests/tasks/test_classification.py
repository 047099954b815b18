import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.data.packing import pack_examples
from roformer_jax.data.tokenizer import train_wordpiece
from roformer_jax.errors import InputError
from roformer_jax.models import Model, build_classifier
from roformer_jax.tasks.classification import (
    Predictor,
    classification_loss,
    classification_task,
    pack,
    regression_loss,
)
from tests.models.parameters import random_params
from tests.tasks.made_up import (
    ENCODINGS,
    HIDDEN,
    LAYERS,
    LENGTH,
    VOCAB,
    WIDTH,
    examples,
    mesh_of,
    model_config,
    placed_params,
    sentences,
    splits,
    train,
)

EPS = float(np.finfo(np.float32).eps)
STEPS = 20
# Each block sums over the keys, four times the width and the hidden units; a gradient sums over the tokens besides.
TERMS = LAYERS * (LENGTH + 4 * WIDTH + HIDDEN) + LENGTH


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(sentences(60, seed=0), vocab_size=VOCAB)


@pytest.fixture
def make_task(tokenizer, cache_dir):
    def make(mesh, *, splits=splits(), batch_size=12, microbatches=1, **fields):  # noqa: B008 (never changed)
        return classification_task(
            splits, model_config(**fields), tokenizer, mesh=mesh, length=LENGTH, batch_size=batch_size,
            microbatches=microbatches, seed=3, cache_dir=cache_dir,
        )  # fmt: skip

    return make


def packed_and_alone(tokenizer, pairs, classes):
    """The same three examples in one row (and two empty ones), and in a row each."""
    found = examples(3, 40, pairs=pairs, classes=classes)
    first, second = (tokenizer.encode(texts) if texts else None for texts in (found.texts, found.pairs))
    length = sum(len(ids) + 3 for ids in first + (second or []))
    rows = [
        list(pack_examples(a, b, labels, tokenizer, length))
        for a, b, labels in [(first, second, found.labels)]
        + [([first[i]], second and [second[i]], found.labels[[i]]) for i in range(3)]
    ]
    assert [len(part) for part in rows] == [1, 1, 1, 1]
    packed, *alone = (part[0] for part in rows)

    def padded(value, size):
        return np.pad(value, (0, size - len(value)))

    alone = {name: np.stack([padded(row[name], len(packed[name])) for row in alone]) for name in packed}
    packed = {name: np.stack([value] + [np.zeros_like(value)] * 2) for name, value in packed.items()}
    return packed, alone


@pytest.mark.parametrize(("encoding", "pooling"), [*((encoding, "cls") for encoding in ENCODINGS), ("rope", "mean")])
@pytest.mark.parametrize("classes", [3, 0], ids=["pairs", "regression"])
def test_packed_examples_have_the_loss_and_gradients_they_have_alone(tokenizer, encoding, pooling, classes):
    config = model_config(position_encoding=encoding, max_position_embeddings=128, classifier_pooling=pooling)
    model = build_classifier(config, max(classes, 1))
    loss = classification_loss(model) if classes else regression_loss(model)
    packed, alone = packed_and_alone(tokenizer, pairs=bool(classes), classes=classes)
    assert (packed["token_type_ids"].max() == 1) == bool(classes)

    def loss_and_sums(params, batch):
        sums = loss(params, batch, None)
        return sums["loss"], sums

    gradient = jax.jit(jax.grad(loss_and_sums, has_aux=True))
    params = random_params(model, scale=0.1)
    (expected, expected_sums), (found, found_sums) = gradient(params, alone), gradient(params, packed)
    assert found_sums["weight"] == 3
    terms = TERMS * packed["ids"].shape[1] / LENGTH
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    chex.assert_trees_all_close(found, expected, rtol=0, atol=terms * EPS * largest)
    chex.assert_trees_all_close(found_sums, expected_sums, rtol=terms * EPS)


def test_any_number_of_devices_gives_the_same_losses_with_dropout(make_task):
    """Five rows a step: empty ones are added, and the bits of the others do not move."""
    losses = []
    for mesh in (mesh_of(1), mesh_of(8), mesh_of(8, fsdp=2, tensor=2, sequence=2)):
        task = make_task(mesh, batch_size=8)
        assert task.batches[0]["ids"].shape[1] == 5
        losses.append(train(task, mesh, STEPS)[1])
    reference, *others = losses
    assert np.ptp(reference) > 0.1, "the losses hardly move"
    for found in others:
        np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_every_example_is_predicted_once_for_any_batch_size_and_number_of_devices(make_task, tokenizer, cache_dir):
    task, heldout = make_task(mesh_of(1)), splits().evaluation["heldout"]
    rows, count = pack(heldout, tokenizer, LENGTH, cache_dir), len(heldout.texts)
    found = []
    for devices in (1, 8):
        mesh = mesh_of(devices)
        with jax.set_mesh(mesh):
            predictor, params = Predictor(task.model, mesh), placed_params(task, mesh)
            found += [predictor(params, rows, batch_size, count) for batch_size in (64, 7, 1)]
            with pytest.raises(RuntimeError, match=f"saw {count} of {count + 1} examples exactly once"):
                predictor(params, rows, 7, count + 1)
    assert found[0].shape == (count, 3)
    assert found[0].std(axis=0).min() > 0
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=TERMS * EPS * float(np.abs(found[0]).max()))


def test_predictions_are_in_input_order(tokenizer, cache_dir):
    """A model that counts the tokens of an example: packing sorts by length, and the order must come back."""
    texts = ["rotate " * n for n in (3, 28, 1, 20, 7)]
    given = examples(len(texts), 0, pairs=False, classes=0)._replace(texts=texts)

    def apply(params, ids, segment_ids, starts, types, *, key):
        own = jnp.take_along_axis(segment_ids, starts, axis=1)
        sizes = jnp.sum(segment_ids[:, None, :] == own[:, :, None], axis=-1)
        return sizes[..., None].astype(jnp.float32)

    mesh = mesh_of(1)
    with jax.set_mesh(mesh):
        rows = pack(given, tokenizer, LENGTH, cache_dir)
        packed = np.concatenate([rows[i]["example_ids"] for i in range(len(rows))])
        assert np.any(np.diff(packed[packed > 0]) < 0), "the rows are in input order themselves"
        outputs = Predictor(Model(lambda key: {}, apply, {}), mesh)({}, rows, len(rows), len(texts))
    np.testing.assert_array_equal(outputs[:, 0], [len(ids) + 2 for ids in tokenizer.encode(texts)])


def test_evaluation_scores_every_set_under_its_name(make_task):
    heldout = splits().evaluation["heldout"]
    two = splits()._replace(evaluation={"matched": heldout, "mismatched": heldout})
    mesh = mesh_of(1)
    with jax.set_mesh(mesh):
        task, task_of_two = make_task(mesh), make_task(mesh, splits=two)
        alone, both = (t.evaluate(placed_params(t, mesh)) for t in (task, task_of_two))
    assert set(alone) == {"loss", "accuracy"}
    assert both == {f"{name}/{metric}": alone[metric] for name in ("matched", "mismatched") for metric in alone}
    assert set(task_of_two.fingerprint) == {"label_names", "train", "matched", "mismatched", "tokenizer"}


def test_batch_holds_as_many_rows_as_its_examples_fill(make_task):
    task = make_task(mesh_of(1), batch_size=8, microbatches=2)
    batch = [task.batches[step] for step in range(3 * task.steps_per_epoch)]
    assert batch[0]["ids"].shape[0] == 2
    found = np.mean([np.count_nonzero(rows["example_ids"]) for rows in batch])
    assert abs(found - 8) < 8 / 4  # to the nearest two rows of 1.6 examples
    seen = np.concatenate([rows["example_ids"].ravel() for rows in batch[: task.steps_per_epoch]])
    assert set(seen) - {0} == set(range(1, 61)), "an epoch visits every example"


def fake_model(outputs):
    """A model that gives the same outputs to whatever it is asked."""
    return Model(init=lambda key: {}, apply=lambda *arguments, **keywords: jnp.asarray(outputs), axes={})


def batch_of(labels, example_ids):
    ids = jnp.zeros((len(labels), 4), jnp.int32)
    arrays = {"ids": ids, "segment_ids": ids, "token_type_ids": ids, "starts": jnp.zeros(labels.shape, jnp.int32)}
    return arrays | {"labels": jnp.asarray(labels), "example_ids": jnp.asarray(example_ids, jnp.int32)}


def test_classification_loss_is_the_summed_cross_entropy_of_the_examples():
    rng = np.random.default_rng(0)
    logits = (5 * rng.normal(size=(4, 3, 6))).astype(np.float32)
    labels = rng.integers(0, 6, (4, 3)).astype(np.int32)
    example_ids = np.maximum(rng.permutation(12).reshape(4, 3) - 4, 0)  # 0 at five places without an example
    real = example_ids > 0
    labels[~real] = 0
    wide = logits.astype(np.float64)
    cross_entropies = np.log(np.exp(wide).sum(-1)) - np.take_along_axis(wide, labels[..., None], -1)[..., 0]
    sums = classification_loss(fake_model(logits))({}, batch_of(labels, example_ids), None)
    np.testing.assert_allclose(sums["loss"], cross_entropies[real].sum(), rtol=labels.size * EPS)
    assert sums["accuracy"] == (logits.argmax(-1) == labels)[real].sum()
    assert sums["weight"] == real.sum() == 7


def test_regression_loss_is_the_summed_squared_error_of_the_examples():
    rng = np.random.default_rng(0)
    outputs, labels = (rng.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    example_ids = np.array([[1, 2, 0], [3, 0, 0], [4, 5, 6], [0, 0, 0]])
    errors = (outputs.astype(np.float64) - labels)[example_ids > 0]
    sums = regression_loss(fake_model(outputs[..., None]))({}, batch_of(labels, example_ids), None)
    np.testing.assert_allclose(sums["loss"], np.sum(errors**2), rtol=labels.size * EPS)
    assert set(sums) == {"loss", "weight"}
    assert sums["weight"] == 6


def test_a_label_outside_the_classes_gives_a_nan_loss():
    for label in (2, -1):
        batch = batch_of(np.array([[label, 1]], np.int32), [[1, 2]])
        assert np.isnan(classification_loss(fake_model(np.zeros((1, 2, 2), np.float32)))({}, batch, None)["loss"])


def test_cached_rows_depend_on_texts_pairs_labels_and_length(tokenizer, cache_dir):
    base = examples(4, 0, pairs=True, classes=2)
    variants = [
        base,
        base._replace(texts=base.texts[::-1]),
        base._replace(pairs=None),
        base._replace(labels=1 - base.labels),
        base._replace(labels=base.labels.astype(np.float32)),
        base._replace(labels=None),
    ]
    found = [pack(variant, tokenizer, LENGTH, cache_dir).fingerprint for variant in variants]
    found.append(pack(base, tokenizer, LENGTH + 1, cache_dir).fingerprint)
    assert len(set(found)) == len(found)
    assert pack(base, tokenizer, LENGTH, cache_dir).fingerprint == found[0]


@pytest.mark.parametrize(
    ("classes", "label", "problem"),
    [
        (3, -1, "labels holds -1, allowed are the integers 0 to 2"),
        (3, 3, "labels holds 3, allowed are the integers 0 to 2"),
        (3, -100, "labels holds -100, allowed"),
        (0, np.nan, "labels holds nan, allowed are finite numbers"),
        (0, np.inf, "labels holds inf, allowed are finite numbers"),
    ],
)
@pytest.mark.parametrize("side", ["train", "heldout"])
def test_labels_outside_the_classes_are_refused_before_the_first_step(make_task, side, classes, label, problem):
    good = splits(classes=classes)
    harmed = good.train if side == "train" else good.evaluation["heldout"]
    labels = harmed.labels.copy()
    labels[7] = label
    harmed = harmed._replace(labels=labels)
    bad = good._replace(train=harmed) if side == "train" else good._replace(evaluation={"heldout": harmed})
    mesh = mesh_of(1)
    with jax.set_mesh(mesh):
        make_task(mesh, splits=good)
        with pytest.raises(InputError, match=rf"packed row \d+: {problem}"):
            make_task(mesh, splits=bad)


def test_scores_are_no_classes_and_pairs_need_two_types_of_token(make_task):
    mesh = mesh_of(1)
    with jax.set_mesh(mesh):
        with pytest.raises(InputError, match=r"labels holds \d\.\d+, allowed are the integers 0 to 2"):
            make_task(mesh, splits=splits(classes=0)._replace(label_names=("a", "b", "c")))
        with pytest.raises(InputError, match=r"model\.type_vocab_size = 1: pairs of texts need 2 or more"):
            make_task(mesh, type_vocab_size=1)
        make_task(mesh, splits=splits(pairs=False), type_vocab_size=1)


def test_regression_trains_one_output(make_task):
    mesh = mesh_of(1)
    task = make_task(mesh, splits=splits(pairs=False, classes=0), microbatches=2)
    state, losses = train(task, mesh, STEPS)
    assert state.params["head"]["output"]["kernel"].shape == (WIDTH, 1)
    assert losses[-1] < losses[0]
    with jax.set_mesh(mesh):
        assert set(task.evaluate(state.params)) == {"loss", "pearson"}
