import threading

import chex
import jax
import pytest

from roformer_jax.training.compile_ahead import compiled_ahead
from roformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from roformer_jax.training.state import create_state
from roformer_jax.training.step import make_train_step

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def begin(problem):
    """A new training step, not yet compiled, with a state and a placed batch."""

    def begin(mesh, loss_fn=problem.loss_fn):
        with jax.set_mesh(mesh):
            params = problem.make_params()
            optimizer = make_optimizer(OptimizerConfig(), 10, params)
            step = make_train_step(loss_fn, optimizer, make_schedule(OptimizerConfig(), 10), jax.random.key(3))
            return step, create_state(params, optimizer), problem.place(problem.host_batch(0))

    return begin


@pytest.fixture
def compiling_threads():
    """The name of the thread of every compilation since."""
    threads = []

    def listen(event, seconds, **_):
        if event == COMPILED:
            threads.append(threading.current_thread().name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield threads
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_first_update_finds_its_program_compiled(problem, begin, compiling_threads, devices):
    mesh = problem.make_mesh(devices)
    step, state, batch = begin(mesh)
    with jax.set_mesh(mesh):
        compiling_threads.clear()
        with compiled_ahead(lambda: (step, state, batch)) as ahead:
            jax.block_until_ready(ahead(state, batch))
    assert len(compiling_threads) == 1
    assert compiling_threads[0].startswith("compiler")


def test_updates_are_those_of_the_step_itself(problem, begin):
    mesh = problem.make_mesh(1)
    results = []
    for ahead in (False, True):
        step, state, batch = begin(mesh)
        with jax.set_mesh(mesh):
            if ahead:
                with compiled_ahead(lambda made=(step, state, batch): made) as step:
                    results.append(jax.device_get(step(state, batch)))
            else:
                results.append(jax.device_get(step(state, batch)))
    chex.assert_trees_all_equal(*results)


def test_what_is_wrong_with_a_program_is_raised_by_its_first_call(problem, begin):
    def wrong(params, batch, key):
        raise ValueError("no such loss")

    mesh = problem.make_mesh(1)
    step, state, batch = begin(mesh, wrong)
    with (
        jax.set_mesh(mesh),
        compiled_ahead(lambda: (step, state, batch)) as ahead,
        pytest.raises(ValueError, match="no such loss"),
    ):
        ahead(state, batch)


def test_whoever_leaves_before_the_first_call_does_not_wait(problem):
    """Bad input is told at once, however long the compiler takes."""
    left, ended = threading.Event(), threading.Event()

    def make():
        left.wait(timeout=20)
        ended.set()
        raise ValueError("never asked for")

    with jax.set_mesh(problem.make_mesh(1)), compiled_ahead(make):
        pass
    assert not ended.is_set()
    left.set()
