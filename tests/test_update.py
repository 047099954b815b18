"""The program of an update is known before its data and parameters are, and compiled once, beside their preparation."""

import logging
import threading

import chex
import jax
import pytest

from roformer_jax.experiment import initial_params
from roformer_jax.pretraining import Pretraining
from roformer_jax.sharding import MeshConfig, make_mesh, place_batch
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import make_optimizer
from roformer_jax.training.state import abstract, create_state
from roformer_jax.update import make_update
from tests.tasks.made_up import LENGTH, model_config

STEPS = 3


@pytest.fixture
def experiment(tmp_path):
    """`experiment(...)`: pretraining of a few updates on made-up text."""
    words = "rotate the query and the key by their position".split()
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(40):
        text = " ".join(words[(i + j) % len(words)] for j in range(30 + i))
        (texts / f"{i}.txt").write_text(text, encoding="utf-8")

    def experiment(**fields):
        defaults = dict(
            run_dir=str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"), model=model_config(vocab_size=80),
            data=CorpusConfig(path=str(texts), length=LENGTH, holdout=0.2),
            training=TrainingConfig(batch_size=12, steps=STEPS),
        )  # fmt: skip
        return Pretraining(**defaults | fields)

    return experiment


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tensor": 2, "sequence": 2}], ids=str)
def test_its_shapes_and_shardings_are_those_of_the_arrays_that_come(experiment, axes):
    """Twelve rows do not divide by eight devices: both are filled up."""
    experiment = experiment(mesh=MeshConfig(**axes))
    mesh = make_mesh(experiment.mesh)
    with jax.set_mesh(mesh):
        task = experiment.prepare(mesh)
        params = initial_params(experiment, task, mesh)
        state = create_state(params, make_optimizer(experiment.optimizer, STEPS, params))
        batch = place_batch(task.batches[0], mesh)
        update = make_update(experiment.problem(), experiment.optimizer, STEPS, mesh, jax.random.key(0), 3.0)
    assert experiment.problem() is task.problem
    chex.assert_trees_all_equal_structs(update.state, state)
    assert jax.tree.leaves(update.state) == jax.tree.leaves(abstract(state))
    assert update.batch == {
        name: jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=rows.sharding) for name, rows in batch.items()
    }


@pytest.fixture
def updates_compiled():
    """Names of the threads that compiled an update."""
    threads = []
    logger = logging.getLogger("jax._src.interpreters.pxla")

    def note(record):
        if record.getMessage().startswith("Compiling jit(train_step)"):
            threads.append(record.threadName)
        return False

    logger.addFilter(note)
    jax.config.update("jax_log_compiles", True)  # not by its context manager, which is this thread's alone
    yield threads
    jax.config.update("jax_log_compiles", False)
    logger.removeFilter(note)


def test_it_is_compiled_once_before_the_data_is_there_and_not_for_a_finished_run(
    experiment, updates_compiled, monkeypatch
):
    begun = threading.Event()
    monkeypatch.setattr("roformer_jax.experiment.make_update", noted(begun))
    prepare = Pretraining.prepare

    def prepare_late(self, mesh):
        assert begun.wait(timeout=60)
        return prepare(self, mesh)

    monkeypatch.setattr(Pretraining, "prepare", prepare_late)
    experiment().run()
    (thread,) = updates_compiled
    assert thread.startswith("compiler")
    monkeypatch.undo()
    experiment().run()
    assert len(updates_compiled) == 1


def noted(event):
    def make(*arguments):
        event.set()
        return make_update(*arguments)

    return make
