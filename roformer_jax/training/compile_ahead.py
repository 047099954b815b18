"""Compiling an update while something else is done."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax

from roformer_jax.training.state import TrainState
from roformer_jax.training.step import Batch, Sums, TrainStep


@contextlib.contextmanager
def compiled_ahead(make: Callable[[], tuple[TrainStep, TrainState, Batch]]) -> Iterator[TrainStep]:
    """Gives the train step that `make` makes, and whose program a thread compiles meanwhile; its first call waits.

    So reading the data, an evaluation before the first update and the compiler need not wait for each other. Whoever
    leaves before the first call does not wait either; what is wrong with the program is raised by that call.

    Args:
        make: is called by the thread; gives a step of `make_train_step`, and a state and a batch of the shapes, dtypes
            and shardings that the calls will have, arrays or their shapes.
    """
    mesh = jax.sharding.get_mesh()  # a thread has a mesh of its own: none

    def compile_step() -> TrainStep:
        with jax.set_mesh(mesh):
            train_step, *like = make()
            shapes = jax.tree.map(
                lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), like
            )
            train_step.func.lower(*shapes, **train_step.keywords).compile()  # jit keeps it for the call
        return train_step

    executor = ThreadPoolExecutor(1, thread_name_prefix="compiler")
    compiled = executor.submit(compile_step)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        return compiled.result()(state, batch)

    try:
        yield step
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
