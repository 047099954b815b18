"""From modules to functions: `init(key) -> params`, a plain nested dict of arrays, and `apply(params, ...)`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.heads import RoFormerForClassification, RoFormerForMaskedLM
from roformer_jax.typing import Array, PRNGKeyArray

Params = dict[str, Any]


class Model(NamedTuple):
    """A model as two pure functions; both work under jit, with or without a mesh."""

    init: Callable[[PRNGKeyArray], Params]
    apply: Callable[..., Array]


def functional(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The pure functions of the module that `make` constructs."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def init(key: PRNGKeyArray) -> Params:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key))))

    def apply(params: Params, *args: Any, **kwargs: Any) -> Array:
        return nnx.merge(graphdef, params)(*args, **kwargs)

    return Model(init, apply)


def build_masked_lm(config: RoFormerConfig) -> Model:
    """`RoFormerForMaskedLM` as functions."""
    return functional(lambda rngs: RoFormerForMaskedLM(config, rngs=rngs))


def build_classifier(config: RoFormerConfig, num_outputs: int) -> Model:
    """`RoFormerForClassification` as functions."""
    return functional(lambda rngs: RoFormerForClassification(config, num_outputs, rngs=rngs))
