"""From modules to functions: `init(key) -> params`, a plain nested dict of arrays, and `apply(params, ...)`."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from flax import nnx

from roformer_jax.models.cache import Cache, empty_cache
from roformer_jax.models.config import RoFormerConfig
from roformer_jax.models.encoder import Encoder
from roformer_jax.models.heads import (
    RoFormerForCausalLM,
    RoFormerForClassification,
    RoFormerForMaskedLM,
    RoFormerForTokens,
)
from roformer_jax.models.translation import Memory, RoFormerForTranslation
from roformer_jax.typing import Array, PRNGKeyArray, PyTree

Params = dict[str, Any]
Head = Literal[
    "encoder",
    "masked_lm",
    "causal_lm",
    "classifier",
    "multiple_choice",
    "token_classifier",
    "question_answering",
    "translation",
]


class Model(NamedTuple):
    """A model as two pure functions, which work under jit, with or without a mesh, and what sharding wants to know."""

    init: Callable[[PRNGKeyArray], Params]
    apply: Callable[..., Array]
    axes: PyTree
    """Names of the last axes of every parameter, for `sharding.RULES`; () where it has none."""


class Decoder(NamedTuple):
    """A causal language model with a memory, as two pure functions; see `build_decoder`."""

    init_cache: Callable[[int, int], Cache]
    extend: Callable[[Params, Array, Array, Cache], tuple[Array, Cache]]


class Translator(NamedTuple):
    """An encoder-decoder that writes its target token by token, as pure functions; see `build_translator`."""

    read: Callable[[Params, Array, Array], Memory]
    init_cache: Callable[[int, int], Cache]
    extend: Callable[[Params, Array, Array, Memory, Cache], tuple[Array, Cache]]


def functional(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The pure functions of the module that `make` constructs."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    axes = nnx.to_pure_dict(shapes, lambda variable: variable.get_metadata().get("axes", ()))

    def init(key: PRNGKeyArray) -> Params:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key))))

    def apply(params: Params, *args: Any, **kwargs: Any) -> Array:
        return nnx.merge(graphdef, params)(*args, **kwargs)

    return Model(init, apply, axes)


def graph_of(make: Callable[[nnx.Rngs], nnx.Module]) -> nnx.GraphDef:
    """The structure of the module that `make` constructs, without any array."""
    return nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))


class EncoderAlone(nnx.Module):
    """The encoder under the name that it has in every model with a head."""

    def __init__(self, config: RoFormerConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs=rngs)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Hidden states; see `Encoder`."""
        return self.encoder(*args, **kwargs)


def build_encoder(config: RoFormerConfig) -> Model:
    """`Encoder` as functions: `apply(params, ids_BL, segment_ids_BL, token_type_ids_BL=None, *, key=None)`."""
    return functional(lambda rngs: EncoderAlone(config, rngs=rngs))


def build_masked_lm(config: RoFormerConfig) -> Model:
    """`RoFormerForMaskedLM` as functions."""
    return functional(lambda rngs: RoFormerForMaskedLM(config, rngs=rngs))


def build_classifier(config: RoFormerConfig, num_outputs: int) -> Model:
    """`RoFormerForClassification` as functions."""
    return functional(lambda rngs: RoFormerForClassification(config, num_outputs, rngs=rngs))


def build_token_model(config: RoFormerConfig, num_outputs: int) -> Model:
    """`RoFormerForTokens` as functions."""
    return functional(lambda rngs: RoFormerForTokens(config, num_outputs, rngs=rngs))


def build_causal_lm(config: RoFormerConfig) -> Model:
    """`RoFormerForCausalLM` as functions: `apply(params, ids_BL, segment_ids_BL, *, key=None)` -> logits [B, L, V]."""
    return functional(lambda rngs: RoFormerForCausalLM(config, rngs=rngs))


def build_translation(config: RoFormerConfig) -> Model:
    """`RoFormerForTranslation` as functions.

    `apply(params, source_ids_BS, source_segment_ids_BS, ids_BT, segment_ids_BT, *, key=None)` -> logits [B, T, V].
    """
    return functional(lambda rngs: RoFormerForTranslation(config, rngs=rngs))


def build(config: RoFormerConfig, head: Head, outputs: int) -> Model:
    """The model with that head; `outputs` are those of the heads that have no number of their own."""
    match head:
        case "encoder":
            return build_encoder(config)
        case "masked_lm":
            return build_masked_lm(config)
        case "causal_lm":
            return build_causal_lm(config)
        case "classifier":
            return build_classifier(config, outputs)
        case "multiple_choice":
            return build_token_model(config, 1)
        case "token_classifier":
            return build_token_model(config, outputs)
        case "question_answering":
            return build_token_model(config, 2)
        case "translation":
            return build_translation(config)


def build_decoder(config: RoFormerConfig) -> Decoder:
    """The causal language model for generation: its parameters are those of `build_causal_lm`.

    `init_cache(batch, capacity)` makes a cache of no tokens; `capacity` is how many a row may reach. Linear attention
    has a state of constant size, and no use for it.

    `extend(params, ids_BT, counts_B, cache) -> (logits_BTV, cache)` reads T new tokens, which continue each row at its
    own length: a prompt, one token, or anything between. Only the first `counts_B[b]` (0 to T) of row b are tokens, the
    rest is padding, whose logits carry no meaning. It compiles once for every T.

    A row that gets more tokens than its capacity keeps what it has, and what does not fit is not written: its logits
    are NaN from that call on. To refuse it, compare lengths on the host before.
    """
    graphdef = graph_of(lambda rngs: RoFormerForCausalLM(config, rngs=rngs))

    def extend(params: Params, ids_BT: Array, counts_B: Array, cache: Cache) -> tuple[Array, Cache]:
        return nnx.merge(graphdef, params).extend(ids_BT, counts_B, cache)

    return Decoder(lambda batch, capacity: empty_cache(config, batch, capacity), extend)


@functools.cache
def build_translator(config: RoFormerConfig) -> Translator:
    """The encoder-decoder for writing translations: its parameters are those of `build_translation`.

    `read(params, source_ids_BS, source_segment_ids_BS) -> memory` encodes one source a row, whose segment is 1, and
    makes its keys and values for all cross-attentions.

    `init_cache(rows, capacity)` and `extend(params, ids_RT, counts_R, memory, cache)` are as in `build_decoder`. There
    may be a multiple of B rows: the continuations of a source follow one another.

    Remembered, so that a program that takes these functions is compiled once for every config.
    """
    graphdef = graph_of(lambda rngs: RoFormerForTranslation(config, rngs=rngs))

    def read(params: Params, source_ids_BS: Array, source_segment_ids_BS: Array) -> Memory:
        return nnx.merge(graphdef, params).read(source_ids_BS, source_segment_ids_BS)

    def extend(params: Params, ids_RT: Array, counts_R: Array, memory: Memory, cache: Cache) -> tuple[Array, Cache]:
        return nnx.merge(graphdef, params).extend(ids_RT, counts_R, memory, cache)

    return Translator(read, lambda rows, capacity: empty_cache(config, rows, capacity), extend)
