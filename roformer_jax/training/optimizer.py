"""AdamW with global-norm clipping, a learning-rate schedule, and no weight decay on biases and norms."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.typing import PyTree

ScheduleName = Literal["linear", "cosine", "constant", "inverse_sqrt"]
DECAYS_BY_LEAF_NAME = {"kernel": True, "embedding": True, "bias": False, "scale": False}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule.

    Raises:
        InputError: a field is of another type or out of its range; the message names the field and the value.
    """

    learning_rate: float = 1e-4
    """Peak learning rate, reached at the end of the warm-up."""
    warmup: float = 0.1
    """Linear warm-up from 0: a number of updates when 1 or more, a fraction of the run when less than 1."""
    schedule: ScheduleName = "linear"
    """After the warm-up: linear or cosine decay to 0 at the end of the run, constant, or inverse square root."""
    weight_decay: float = 0.01
    """Decoupled weight decay of kernels and embeddings; biases and norm scales are never decayed."""
    b1: float = 0.9
    """Decay rate of the mean of the gradients."""
    b2: float = 0.999
    """Decay rate of the mean of the squared gradients."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_norm: float = 1.0
    """Gradients with a larger global norm are scaled down to it."""

    def __post_init__(self):
        check_types(self, "optimizer.")
        demands = {
            "learning_rate": (0 < self.learning_rate < math.inf, "positive and finite"),
            "warmup": (
                0 <= self.warmup < 1 or (1 <= self.warmup < math.inf and self.warmup == int(self.warmup)),
                "a whole number of updates, or a fraction of the run in [0, 1)",
            ),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more, and finite"),
            "b1": (0 <= self.b1 < 1, "in [0, 1)"),
            "b2": (0 <= self.b2 < 1, "in [0, 1)"),
            "eps": (0 < self.eps < math.inf, "positive and finite"),
            "clip_norm": (self.clip_norm > 0, "positive"),
        }
        for field, (holds, demand) in demands.items():
            if not holds:
                raise InputError(f"optimizer.{field} must be {demand}, but is {getattr(self, field)!r}")


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate of update n = 0, 1, ..., num_steps - 1, as a function of n.

    Linear from 0 (n = 0) to the peak (n = W, the warm-up), then with p = (n - W) / (num_steps - W): peak (1 - p) for
    "linear", peak (1 + cos(pi p)) / 2 for "cosine", peak for "constant", peak sqrt(W / n) for "inverse_sqrt"
    (with W = 1 if there is no warm-up, and n counted from 1).

    Raises:
        InputError: the warm-up is longer than the run.
    """
    peak = config.learning_rate
    warmup = int(config.warmup) if config.warmup >= 1 else round(config.warmup * num_steps)
    if warmup > num_steps:
        raise InputError(
            f"optimizer.warmup = {config.warmup}: a warmup of {warmup} updates is longer than the run of {num_steps}; "
            "lower it"
        )
    rest = max(num_steps - warmup, 1)
    scale = max(warmup, 1)
    after_warmup = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
        "inverse_sqrt": lambda n: peak * jnp.sqrt(scale / (jnp.maximum(n, 0) + scale)),
    }[config.schedule]
    if warmup == 0:
        return after_warmup
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after_warmup], [warmup])


def decay_mask(params: PyTree) -> PyTree:
    """Whether weight decay applies, for every leaf of `params`, decided by the leaf's own name.

    Raises:
        ValueError: a leaf has a name for which nothing is decided, so that no parameter is decayed by accident.
    """

    def decays(path, _leaf) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name not in DECAYS_BY_LEAF_NAME:
            leaf = jax.tree_util.keystr(path, simple=True, separator="/")
            known = ", ".join(DECAYS_BY_LEAF_NAME)
            raise ValueError(f"weight decay of parameter {leaf} is undecided: its name is none of {known}")
        return DECAYS_BY_LEAF_NAME[name]

    return jax.tree_util.tree_map_with_path(decays, params)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients whose global norm is larger down to it.

    As optax's, but by one product: XLA:CPU writes optax's quotient of every gradient to memory and reads it again.
    """

    def clip(gradients: PyTree, _params: PyTree | None) -> PyTree:
        factor = jnp.minimum(1.0, max_norm / optax.tree.norm(gradients))
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return optax.stateless(clip)


def make_optimizer(config: OptimizerConfig, num_steps: int, params: PyTree) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW (Loshchilov & Hutter 2019) under the schedule of `make_schedule`.

    `params` serves for its names only and may be abstract.

    Raises:
        InputError: the warm-up is longer than the run.
        ValueError: a parameter's name does not say whether it is decayed (`decay_mask`).
    """
    return optax.chain(
        clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, num_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask(params),
        ),
    )
