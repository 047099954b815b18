import contextlib
import re
import shutil
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from roformer_jax.errors import InputError, NonFiniteError, UnsavedError
from roformer_jax.training.checkpoint import Checkpoints, restore_params
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.state import abstract, create_state
from roformer_jax.training.step import make_train_step

CONFIG = OptimizerConfig(learning_rate=1e-2, warmup=0.0)


def start(problem):
    params = problem.make_params()
    optimizer = make_optimizer(CONFIG, 10, params)
    step = make_train_step(problem.loss_fn, optimizer, make_schedule(CONFIG, 10), jax.random.key(0))
    return create_state(params, optimizer), step


def on_host(tree):
    return jax.tree.map(np.array, tree)


def assert_bitwise_equal(found, expected):
    chex.assert_trees_all_equal_structs(found, expected)
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x.view(np.uint32), found), jax.tree.map(lambda x: x.view(np.uint32), expected)
    )


@pytest.mark.parametrize(
    ("saved_on", "restored_on"), [((1, 1), (1, 1)), ((8, 4), (8, 4)), ((1, 1), (8, 4)), ((8, 4), (2, 1))]
)
def test_restored_state_is_bitwise_the_saved_one_on_any_mesh(problem, tmp_path, saved_on, restored_on):
    with jax.set_mesh(problem.make_mesh(*saved_on)), Checkpoints(tmp_path) as checkpoints:
        state, step = start(problem)
        state, _ = step(state, problem.place(problem.host_batch(0)))
        checkpoints.save(1, state)
        expected = on_host(state)
    with jax.set_mesh(problem.make_mesh(*restored_on)), Checkpoints(tmp_path) as checkpoints:
        target = abstract(start(problem)[0])
        restored = checkpoints.restore(target, 1)
        assert_bitwise_equal(on_host(restored), expected)
        chex.assert_trees_all_equal(abstract(restored), target)


def test_state_is_saved_as_it_was_although_its_memory_is_given_to_the_next_update(problem, tmp_path):
    with jax.set_mesh(problem.make_mesh(2)), Checkpoints(tmp_path, keep=5) as checkpoints:
        state, step = start(problem)
        target, expected = abstract(state), {}
        for n in range(4):
            expected[n] = on_host(state)
            checkpoints.save(n, state)
            # The memory goes to the next update while the background still writes.
            state, _ = step(state, problem.place(problem.host_batch(n)))
        checkpoints.settle()
        for n, saved in expected.items():
            assert_bitwise_equal(on_host(checkpoints.restore(target, n)), saved)
        assert not np.array_equal(expected[0].params["out"]["kernel"], expected[3].params["out"]["kernel"])


def test_only_the_newest_stay_and_nothing_else_is_left_behind(problem, tmp_path):
    with jax.set_mesh(problem.make_mesh(1)), Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        state, _ = start(problem)
        for step in (3, 4, 5, 7, 8, 9):
            checkpoints.save(step, state)
            assert len(list(tmp_path.glob("trash/*"))) <= 1, "the trash is emptied during the run"
        checkpoints.settle()
        assert checkpoints.latest_step() == 9
    assert {path.name for path in tmp_path.iterdir()} == {"8", "9"}


@pytest.mark.parametrize("step", [5, 4])
def test_saving_at_or_before_the_newest_step_is_refused(problem, tmp_path, step):
    with jax.set_mesh(problem.make_mesh(1)), Checkpoints(tmp_path) as checkpoints:
        state, _ = start(problem)
        checkpoints.save(5, state)
        with pytest.raises(InputError, match=f"holds a checkpoint of step 5, so step {step} cannot be saved"):
            checkpoints.save(step, state)


def test_a_missing_checkpoint_is_named(problem, tmp_path):
    with jax.set_mesh(problem.make_mesh(1)), Checkpoints(tmp_path / "run") as checkpoints:
        state, _ = start(problem)
        assert checkpoints.restore_newest(abstract(state)) is None
        checkpoints.save_last(2, state)
        with pytest.raises(InputError, match=r"no checkpoint of step 1 in .*run, which holds steps \[2\]"):
            checkpoints.restore(abstract(state), 1)
    with pytest.raises(InputError, match=r"no checkpoint in .*nowhere"):
        restore_params(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no checkpoint of step 1"):
        restore_params(tmp_path / "run", 1)


def test_parameters_are_readable_without_knowing_their_structure_or_the_optimizer(problem, tmp_path, caplog):
    with jax.set_mesh(problem.make_mesh(8, 4)), Checkpoints(tmp_path) as checkpoints:
        state, _ = start(problem)
        checkpoints.save(1, state)
        checkpoints.save(2, state)
        expected = on_host(state.params)
    caplog.clear()
    for step in (None, 1):
        params = restore_params(tmp_path, step)
        assert_bitwise_equal(params, expected)
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(params))
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


@pytest.fixture
def broken_disk(monkeypatch):
    """Within `with broken_disk():` the background cannot finish what it writes."""

    def fail(*_):
        raise OSError("no space left on device")

    @contextlib.contextmanager
    def broken_disk():
        with monkeypatch.context() as patch:
            patch.setattr(ocp.StandardCheckpointHandler, "finalize", fail)
            yield

    return broken_disk


def test_a_save_that_fails_in_the_background_is_told_and_does_not_count(problem, tmp_path, broken_disk, capfd):
    with jax.set_mesh(problem.make_mesh(1)), Checkpoints(tmp_path) as checkpoints:
        state, _ = start(problem)
        checkpoints.save(1, state)
        checkpoints.settle()
        with broken_disk():
            checkpoints.save(2, state)
            checkpoints.settle()
        assert {path.name for path in tmp_path.iterdir()} == {"1"}, "what was half written is removed"
        checkpoints.save(3, state)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "checkpoint of step 1 is on disk"
    assert lines[1].startswith(f"WARNING: the checkpoint of step 2 could not be written to {tmp_path} (no space left")
    assert lines[1].endswith("training goes on; the newest on disk is that of step 1")
    assert lines[2:] == ["checkpoint of step 3 is on disk"]
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3"}


def test_the_last_save_is_tried_twice_and_its_failure_is_an_error(problem, tmp_path, broken_disk, capfd):
    with jax.set_mesh(problem.make_mesh(1)), Checkpoints(tmp_path) as checkpoints:
        state, _ = start(problem)
        with broken_disk(), pytest.raises(UnsavedError, match=r"step 4 could not be written .*no checkpoint yet"):
            checkpoints.save_last(4, state)
        assert capfd.readouterr().err.count("WARNING") == 2
        checkpoints.save_last(4, state)
        with broken_disk(), pytest.raises(UnsavedError, match="that of step 4 is as it was"):
            checkpoints.save_last(5, state)
    assert {path.name for path in tmp_path.iterdir()} == {"4"}


def test_a_save_is_not_begun_without_the_room_for_it_nor_before_what_must_precede_it(
    problem, tmp_path, monkeypatch, capfd
):
    with jax.set_mesh(problem.make_mesh(1)), Checkpoints(tmp_path) as checkpoints:
        state, _ = start(problem)
        checkpoints.save(1, state, after=lambda: False)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
            checkpoints.save(2, state)
    assert not list(tmp_path.iterdir())
    first, second = capfd.readouterr().err.splitlines()
    assert "step 1 could not be written" in first and "the metrics before it could not" in first
    assert re.search(r"step 2 could not be written .*MB are needed and .* MB are free", second)


def test_a_state_that_is_not_finite_is_never_saved(problem, tmp_path):
    with jax.set_mesh(problem.make_mesh(8, 4)), Checkpoints(tmp_path) as checkpoints:
        state, _ = start(problem)
        checkpoints.save(1, state)
        kernel = jnp.inf * state.params["hidden"]["kernel"]
        params = state.params | {"hidden": state.params["hidden"] | {"kernel": kernel}}
        with pytest.raises(NonFiniteError, match=r"after step 2 .*: params/hidden/kernel; .* is that of step 1"):
            checkpoints.save(2, state._replace(params=params))
    assert {path.name for path in tmp_path.iterdir()} == {"1"}
