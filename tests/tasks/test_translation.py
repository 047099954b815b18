"""Training on pairs: the loss by its formula, packed as alone, on any mesh, and texts that are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.errors import InputError
from roformer_jax.models import Model, RoFormerConfig, build_translation
from roformer_jax.sharding import make_mesh, parameter_shardings, place_batch
from roformer_jax.tasks.bleu import bleu
from roformer_jax.tasks.parallel_corpus import PairsConfig, prepare_pairs
from roformer_jax.tasks.translation import translation_loss
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.translation import Translation
from tests.models.parameters import random_params
from tests.tasks.made_up import LENGTH, WORDS, mesh_of

EPS = float(np.finfo(np.float32).eps)
VOCAB, ROWS, SMOOTHING = 300, 8, 0.1
MODEL = RoFormerConfig(
    vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


def write_pairs(folder, name, count, seed):
    """Sentences of two to six words, each translated by its words in capitals, backwards."""
    rng = np.random.default_rng(seed)
    sentences = [rng.choice(WORDS, rng.integers(2, 7)).tolist() for _ in range(count)]
    (folder / f"{name}.a").write_text("\n".join(" ".join(words) for words in sentences), encoding="utf-8")
    (folder / f"{name}.b").write_text("\n".join(" ".join(words[::-1]).upper() for words in sentences), encoding="utf-8")
    return {"source": str(folder / f"{name}.a"), "target": str(folder / f"{name}.b")}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    heldout = {f"heldout_{side}": path for side, path in write_pairs(folder, "heldout", 20, 1).items()}
    return PairsConfig(**write_pairs(folder, "train", 120, 0), **heldout, length=LENGTH, too_long="drop")


@pytest.fixture(scope="module")
def corpus(config, cache_dir):
    return prepare_pairs(config, vocab_size=VOCAB, cache_dir=cache_dir)


def experiment(config, cache_dir, **fields):
    training = TrainingConfig(batch_size=8, microbatches=2, steps=10, keep=5)
    return Translation(run_dir="-", model=MODEL, data=config, training=training, cache_dir=cache_dir, **fields)


def test_the_smoothed_loss_is_its_formula_over_the_tokens_that_are_no_padding():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (2, 5, 11)).astype(np.float32), rng.integers(0, 11, (2, 5))
    segments = np.array([[1, 1, 2, 0, 0], [1, 1, 1, 1, 2]])
    model = Model(init=lambda key: {}, apply=lambda *arguments, **keywords: jnp.asarray(logits), axes={})
    batch = {"labels": labels, "segment_ids": segments, "ids": labels, "source_ids": labels}
    batch = {name: jnp.asarray(array) for name, array in (batch | {"source_segment_ids": segments}).items()}
    sums = jax.jit(translation_loss(model, SMOOTHING), static_argnums=2)({}, batch, None)
    wide = logits.astype(np.float64)
    log_probs = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    wanted = (1 - SMOOTHING) * np.eye(11)[labels] + SMOOTHING / 11
    real = segments > 0
    atol = 8 * real.sum() * float(np.abs(logits).max() + 3) * EPS
    np.testing.assert_allclose(sums["loss"], -(wanted * log_probs).sum(axis=-1)[real].sum(), rtol=0, atol=atol)
    plain = np.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(sums["nats_per_token"], -plain[real].sum(), rtol=0, atol=atol)
    assert sums["weight"] == real.sum()
    assert sums["accuracy"] == (logits.argmax(axis=-1) == labels)[real].sum()


@pytest.fixture(scope="module")
def trained():
    """Parameters, and loss sums and gradient of a batch of `ROWS` rows: compiled once for one device."""
    model = build_translation(MODEL)
    loss = translation_loss(model, SMOOTHING)

    @jax.jit
    def sums_and_gradient(params, batch):
        def total(params):
            sums = loss(params, batch, None)
            return sums["loss"], sums

        gradient, sums = jax.grad(total, has_aux=True)(params)
        return sums, gradient

    return model, random_params(model, scale=0.1), sums_and_gradient


def test_packed_pairs_have_the_loss_they_have_alone(corpus, trained):
    _, params, sums_and_gradient = trained
    rows = map(corpus.train.__getitem__, range(len(corpus.train)))
    row = next(row for row in rows if 2 < row["segment_ids"].max() <= ROWS)
    packed, alone = ({name: np.zeros((ROWS, LENGTH), np.int32) for name in row} for _ in range(2))
    for name, values in row.items():
        packed[name][0] = values
        segments = row["source_segment_ids" if name.startswith("source") else "segment_ids"]
        for i in range(row["segment_ids"].max()):
            of_pair = values[segments == i + 1]
            alone[name][i, : len(of_pair)] = 1 if name.endswith("segment_ids") else of_pair
    (expected, _), (found, _) = sums_and_gradient(params, alone), sums_and_gradient(params, packed)
    assert expected["weight"] == found["weight"] > 2
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=500 * EPS)  # sums of some 300 terms a logit


def test_loss_and_gradient_are_those_of_one_device(corpus, trained):
    """Rows, heads, tokens of a row and widths are split."""
    model, params, sums_and_gradient = trained
    rows = [corpus.train[i] for i in range(ROWS)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    sums, gradient = sums_and_gradient(params, batch)
    mesh = mesh_of(8, fsdp=2, tensor=2, sequence=2)
    with jax.set_mesh(mesh):
        shardings = parameter_shardings(mesh, jax.eval_shape(model.init, jax.random.key(0)), model.axes)
        placed = place_batch({name: array[None] for name, array in batch.items()}, mesh)
        microbatch = {name: array[0] for name, array in placed.items()}
        found, sharded = sums_and_gradient(jax.device_put(params, shardings), microbatch)
    np.testing.assert_allclose(found["loss"], sums["loss"], rtol=1e-5)
    # Sums over some hundred tokens and widths; what is zero but for rounding is measured by the largest gradient.
    atol = 200 * EPS * max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    for leaf, expected in zip(jax.tree.leaves(sharded), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=atol)


def test_the_problem_of_the_config_is_that_of_the_data(config, cache_dir):
    made = experiment(config, cache_dir)
    mesh = make_mesh(made.mesh)
    with jax.set_mesh(mesh):
        batch = made.prepare(mesh).batches[0]
    problem = made.problem()
    shapes = {name: (array.shape, array.dtype) for name, array in problem.batch.items()}
    assert shapes == {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert problem.places == 8 * LENGTH
    # 6 FLOPs for every place and weight, but the embedding's and the norms'; and the two products of each attention.
    kernels = {
        jax.tree_util.keystr(path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.eval_shape(problem.model.init, jax.random.key(0)))
        if leaf.ndim > 1 and "bias" not in jax.tree_util.keystr(path) and "norm" not in jax.tree_util.keystr(path)
    }
    weights = sum(size for name, size in kernels.items() if "token_type" not in name)
    assert problem.flops == 6 * problem.places * (weights + 3 * 2 * 32 * LENGTH)


def test_pairs_too_long_are_refused_by_their_line_or_counted(config, tmp_path):
    refused = dataclasses.replace(config, too_long="refuse", length=16)
    message = (
        r"train.a:\d+ has \d+ tokens and its translation \d+, a row holds one less than data.length = 16; \d+ pairs"
    )
    with pytest.raises(InputError, match=message):
        prepare_pairs(refused, vocab_size=VOCAB, cache_dir=str(tmp_path))
    dropped = prepare_pairs(
        dataclasses.replace(refused, too_long="drop"), vocab_size=VOCAB, cache_dir=str(tmp_path)
    )  # fmt: skip
    kept, _, total = dropped.summary["training text"].split()[:3]
    assert 0 < int(kept) < int(total) == 120


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": ""}, "data.source is not set: name a text file, e.g. --data.source my/text"),
        (
            {"heldout_target": ""},
            "data.heldout_target is not set: name a text file, e.g. --data.heldout-target my/text",
        ),
        ({"target": "nowhere"}, "nowhere: no such file or folder"),
        ({"test_source": ("a",)}, "data.test_source names 1 files and data.test_target 0"),
        ({"test_source": ("x/a.en", "y/a.de"), "test_target": ("b", "c")}, "the names of the tests, a, a, must differ"),
        ({"length": 7}, "data.length = 7: a row needs at least 8 tokens"),
    ],
)
def test_pairs_that_are_not_there_are_refused_before_anything_is_written(config, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        changed = dataclasses.replace(config, **fields)
        prepare_pairs(changed, vocab_size=VOCAB, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing = 1.0 must lie in \[0, 1\)"),
        ({"averaged": 6}, "averaged = 6 checkpoints must be 1 or more, and training.keep = 5 or fewer"),
        ({"init_from": "runs/other"}, "init_from = runs/other: a translation model starts from nothing"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(config, cache_dir, fields, message):
    with pytest.raises(InputError, match=message):
        experiment(config, cache_dir, **fields)


def test_a_test_text_beyond_the_learned_positions_is_refused_before_training(config, cache_dir, tmp_path):
    (tmp_path / "long.a").write_text("short\n" + "long " * 40, encoding="utf-8")
    data = dataclasses.replace(config, test_source=(str(tmp_path / "long.a"),), test_target=(str(tmp_path / "long.a"),))
    model = dataclasses.replace(MODEL, position_encoding="learned", max_position_embeddings=LENGTH)
    made = dataclasses.replace(experiment(data, cache_dir), model=model)
    mesh = make_mesh(made.mesh)
    with jax.set_mesh(mesh), pytest.raises(InputError, match=r"long.a:2: rows of \d+ tokens do not fit the learned"):
        made.prepare(mesh)


def test_bleu_comes_with_its_signature():
    translations = ["the cat sat on the mat .", "a dog ran away ."]
    score, signature = bleu(translations, translations)
    assert score == pytest.approx(100)
    assert "case:mixed" in signature and "tok:13a" in signature and "version:" in signature
    # One word of twelve is wrong, and so are two of the ten pairs, three of the eight triples, three of the six fours.
    found, _ = bleu(["the cat sat on a mat .", "a dog ran away ."], translations)
    precisions = 11 / 12 * 8 / 10 * 5 / 8 * 3 / 6
    assert found == pytest.approx(100 * precisions**0.25, rel=1e-6)
