"""What the config alone says of an update is what the prepared data turns out to be, for every kind of experiment."""

import jax
import numpy as np
import pytest

from roformer_jax.finetuning import Classification, Glue, TableConfig
from roformer_jax.language_modelling import ByteLM, DocumentLM
from roformer_jax.pretraining import Pretraining
from roformer_jax.sharding import MeshConfig, make_mesh
from roformer_jax.tasks.classification import classification_problem, classification_task
from roformer_jax.tasks.corpus import StreamConfig
from roformer_jax.training.loop import TrainingConfig
from tests.tasks.made_up import LENGTH, model_config, splits

TRAINING = TrainingConfig(batch_size=16, microbatches=2, steps=10)


def shapes(batch):
    return {name: (array.shape, np.dtype(array.dtype)) for name, array in batch.items()}


@pytest.fixture
def prepared_batch():
    def prepare(experiment):
        mesh = make_mesh(MeshConfig())
        with jax.set_mesh(mesh):
            return experiment.prepare(mesh).batches[0]

    return prepare


@pytest.mark.parametrize("kind", [Pretraining, DocumentLM])
def test_documents(kind, corpus_config, cache_dir, prepared_batch):
    model = model_config()
    experiment = kind(run_dir="-", model=model, data=corpus_config, training=TRAINING, cache_dir=cache_dir)
    assert shapes(experiment.problem().batch) == shapes(prepared_batch(experiment))
    assert experiment.problem().places == 16 * LENGTH


def test_bytes(tmp_path, cache_dir, prepared_batch):
    (tmp_path / "text").write_bytes(b"rotate the query and the key " * 200)
    data = StreamConfig(path=str(tmp_path / "text"), length=LENGTH)
    model = model_config(vocab_size=261)
    experiment = ByteLM(run_dir="-", model=model, data=data, training=TRAINING, cache_dir=cache_dir)
    assert shapes(experiment.problem().batch) == shapes(prepared_batch(experiment))


@pytest.mark.parametrize("classes", [3, 0])
def test_examples(classes, corpus, cache_dir):
    """How many rows hold a batch, and how many examples a row, is known from the data only."""
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        task = classification_task(
            splits(classes=classes), model_config(), corpus.tokenizer, mesh=mesh, length=LENGTH, batch_size=16,
            microbatches=2, seed=0, cache_dir=cache_dir,
        )  # fmt: skip
    batch = task.batches[0]
    (_, rows, examples), length = batch["starts"].shape, batch["ids"].shape[-1]
    problem = classification_problem(
        model_config(), length=length, classes=classes, rows=2 * rows, microbatches=2, examples=examples
    )
    assert shapes(problem.batch) == shapes(batch) == shapes(task.problem.batch)
    assert problem.flops == task.problem.flops


def test_a_plan_of_fine_tuning_is_for_as_many_rows_as_examples():
    fine_tuning = [
        Classification(run_dir="-", model=model_config(), data=TableConfig(), length=LENGTH, training=TRAINING),
        Glue(run_dir="-", model=model_config(), task="stsb", length=LENGTH, training=TRAINING),
        Glue(run_dir="-", model=model_config(), task="mnli", length=LENGTH, training=TRAINING),
    ]
    for experiment, labels, outputs in zip(fine_tuning, ("int32", "float32", "int32"), (2, 1, 3), strict=True):
        problem = experiment.problem()
        assert problem.batch["ids"].shape == (2, 8, LENGTH)
        assert problem.batch["labels"].shape == (2, 8, 1)
        assert problem.batch["labels"].dtype == labels
        params = jax.eval_shape(problem.model.init, jax.random.key(0))
        assert params["head"]["output"]["bias"].shape == (outputs,)
