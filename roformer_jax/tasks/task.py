"""What a task hands to the experiment: functions of parameters and batches, and the fingerprint of its data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from roformer_jax.data.batches import Batches
from roformer_jax.data.tokenizer import Tokenizer
from roformer_jax.models import Model


class Problem(NamedTuple):
    """What an update computes, as far as the config says it: no text, table or tokenizer is read.

    Attributes:
      model: the model's pure functions.
      loss: `loss(params, microbatch, key) -> sums` (see `training.step`).
      batch: shape and dtype of every array [microbatches, rows, ...] of a training batch, over all processes.
      flops: model FLOPs of an update whose rows have no padding (see `flops`).
    """

    model: Model
    loss: Callable[..., dict[str, Any]]
    batch: dict[str, jax.ShapeDtypeStruct]
    flops: float

    @property
    def places(self) -> int:
        """Tokens of a batch, padding counted."""
        return self.batch["ids"].size


class Task(NamedTuple):
    """A training problem, ready to run.

    Attributes:
      problem: what an update computes.
      batches: training batches, a pure function of (seed, step).
      steps_per_epoch: updates in one pass over the data (rounded up).
      tokens_per_step: real tokens of a batch on average (padding not counted).
      evaluate: `evaluate(params, between) -> metrics` on the whole held-out data; `between` is called between batches
        and may end it by raising.
      tokenizer: maps text to ids.
      fingerprint: what shaped the data; a run refuses to continue on other data.
      summary: facts for the start-up banner, in order.
    """

    problem: Problem
    batches: Batches
    steps_per_epoch: int
    tokens_per_step: float
    evaluate: Callable[..., dict[str, float]]
    tokenizer: Tokenizer
    fingerprint: dict[str, Any]
    summary: dict[str, str]

    @property
    def model(self) -> Model:
        """The model's pure functions."""
        return self.problem.model

    @property
    def loss(self) -> Callable[..., dict[str, Any]]:
        """The loss function."""
        return self.problem.loss
