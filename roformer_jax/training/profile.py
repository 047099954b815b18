"""Traces of some updates, for xprof and TensorBoard."""

import contextlib
import itertools
import os
from collections.abc import Iterator

import jax

from roformer_jax.errors import InputError
from roformer_jax.training.state import TrainState
from roformer_jax.training.step import Batch, Sums, TrainStep


def parse_updates(text: str, steps: int | None = None) -> range:
    """The numbers of the updates that "first:last" names, both included; updates count from 1, as in metrics.jsonl.

    Raises:
        InputError: it is not of that form, or lies outside a run of `steps` updates.
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise InputError(
            f"training.profile must be FIRST:LAST, numbers of updates with 1 <= FIRST <= LAST, but is {text!r}; "
            "10:15 traces six updates"
        )
    if steps is not None and int(last) > steps:
        raise InputError(f"training.profile = {text} lies outside the run, which has {steps} updates")
    return range(int(first), int(last) + 1)


@contextlib.contextmanager
def profiled(
    train_step: TrainStep, updates: str | None, folder: str | os.PathLike, *, start: int
) -> Iterator[TrainStep]:
    """Gives `train_step`, which traces the updates that `updates` names, and what lies between them, into `folder`.

    The first call is update `start` + 1. A run that goes on from within the range traces the rest of it, and one that
    is stopped there keeps what was traced.
    """
    if updates is None:
        yield train_step
        return
    traced, numbers = parse_updates(updates), itertools.count(start + 1)
    with contextlib.ExitStack() as trace:

        def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
            number = next(numbers)
            if number not in traced:
                return train_step(state, batch)
            if number == max(traced.start, start + 1):
                jax.block_until_ready(state)  # the updates before it are no part of the trace
                trace.enter_context(jax.profiler.trace(os.fspath(folder)))
            with jax.profiler.StepTraceAnnotation("train", step_num=number):
                result = train_step(state, batch)
            if number == traced[-1]:
                jax.block_until_ready(result)
                trace.close()
            return result

        yield step
