"""Compiling an update while something else is done."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax

from roformer_jax.training.state import TrainState
from roformer_jax.training.step import Batch, Sums, TrainStep


@contextlib.contextmanager
def compiled_ahead(train_step: TrainStep, state: TrainState, batch: Batch) -> Iterator[TrainStep]:
    """Gives `train_step`, whose program a thread compiles meanwhile; its first call waits for it.

    So the evaluation before the first update, and the compiler, need not wait for each other.

    Args:
        train_step: of `make_train_step`.
        state: of the shapes, dtypes and shardings that the calls will have, as is `batch`; neither is kept.
        batch: placed.
    """
    shapes = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), (state, batch)
    )
    mesh = jax.sharding.get_mesh()  # a thread has a mesh of its own: none

    def compile_step() -> None:
        with jax.set_mesh(mesh):
            train_step.func.lower(*shapes, **train_step.keywords).compile()  # jit keeps it for the call

    with ThreadPoolExecutor(1, thread_name_prefix="compiler") as executor:
        compiled = executor.submit(compile_step)

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
            compiled.result()
            return train_step(state, batch)

        yield step
