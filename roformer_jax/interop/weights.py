"""Which tensor of Hugging Face's checkpoints is which of our parameters, for every family and head.

Theirs has a tensor for each layer, linear maps as [out, in], and queries, keys and values apart. Ours has the layers
stacked, kernels as [in, out] with heads and channels on axes of their own, and the three in one. Both directions only
move numbers, so that a round trip is bitwise.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from roformer_jax.errors import InputError
from roformer_jax.models import Head, RoFormerConfig
from roformer_jax.typing import PyTree


class Entry(NamedTuple):
    """One of our parameters, and the tensors that it is made of."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    """Names of the parts; "{layer}" is the number of a layer where there is one tensor for each."""
    inputs: int = 0
    """Of a kernel: how many of its axes (those of one layer) come in. 0: not a kernel, and nothing is transposed."""

    @property
    def stacked(self) -> bool:
        """Whether our parameter has an axis of layers in front."""
        return "{layer}" in self.theirs[0]


def entries(model: RoFormerConfig, head: Head, family: str) -> Iterator[Entry]:
    """All parameters of a model in the order of its computation; `family` is "roformer" or "bert"."""
    prefix = "" if head == "encoder" else f"{family}."
    yield from _embeddings(model, prefix)
    yield from _block(model, f"{prefix}encoder.layer.{{layer}}.")
    match head:
        case "masked_lm" | "causal_lm":
            yield from _language_model_head(model)
        case "classifier":
            yield from _linear("head.dense", "classifier.dense")
            yield from _linear("head.output", "classifier.out_proj")
        case "multiple_choice" | "token_classifier":
            yield from _linear("head", "classifier")
        case "question_answering":
            yield from _linear("head", "qa_outputs")


def _embeddings(model: RoFormerConfig, prefix: str) -> Iterator[Entry]:
    ours, theirs = "encoder.embeddings", f"{prefix}embeddings"
    yield _same(f"{ours}.token.embedding", f"{theirs}.word_embeddings.weight")
    if model.type_vocab_size:
        yield _same(f"{ours}.token_type.embedding", f"{theirs}.token_type_embeddings.weight")
    if model.position_encoding == "learned":
        yield _same(f"{ours}.position.embedding", f"{theirs}.position_embeddings.weight")
    yield from _norm(model, f"{ours}.norm", f"{theirs}.LayerNorm")
    if model.embedding_width != model.hidden_size:
        yield from _linear(f"{ours}.project", f"{prefix}embeddings_project")


def _block(model: RoFormerConfig, theirs: str) -> Iterator[Entry]:
    ours, bias = "encoder.blocks", model.use_bias
    parts = tuple(f"{theirs}attention.self.{name}" for name in ("query", "key", "value"))
    yield from _linear(f"{ours}.attention.query_key_value", *parts, bias=bias)
    yield from _linear(f"{ours}.attention.output", f"{theirs}attention.output.dense", inputs=2, bias=bias)
    yield from _norm(model, f"{ours}.attention_norm", f"{theirs}attention.output.LayerNorm")
    yield from _linear(f"{ours}.up", f"{theirs}intermediate.dense", bias=bias)
    yield from _linear(f"{ours}.down", f"{theirs}output.dense", bias=bias)
    yield from _norm(model, f"{ours}.output_norm", f"{theirs}output.LayerNorm")


def _language_model_head(model: RoFormerConfig) -> Iterator[Entry]:
    theirs = "cls.predictions"
    if not model.tie_word_embeddings:
        yield _same("head.decoder.embedding", f"{theirs}.decoder.weight")
    if model.norm_type == "layer_norm":
        yield from _linear("head.dense", f"{theirs}.transform.dense")
        yield from _norm(model, "head.norm", f"{theirs}.transform.LayerNorm")
        yield _same("head.bias", f"{theirs}.bias")


def _same(ours: str, theirs: str) -> Entry:
    return Entry(tuple(ours.split(".")), (theirs,))


def _linear(ours: str, *theirs: str, inputs: int = 1, bias: bool = True) -> Iterator[Entry]:
    yield Entry((*ours.split("."), "kernel"), tuple(f"{name}.weight" for name in theirs), inputs)
    if bias:
        yield Entry((*ours.split("."), "bias"), tuple(f"{name}.bias" for name in theirs))


def _norm(model: RoFormerConfig, ours: str, theirs: str) -> Iterator[Entry]:
    if model.norm_type == "layer_norm":
        yield _same(f"{ours}.scale", f"{theirs}.weight")
        yield _same(f"{ours}.bias", f"{theirs}.bias")


def to_params(table: list[Entry], shapes: PyTree, tensors: Mapping[str, np.ndarray], source: str) -> PyTree:
    """Our parameters, float32, of `shapes`; every name and shape is checked.

    Raises:
      InputError: a tensor is missing, or has another shape or type; the message names it, and what it should be.
    """
    params: dict = {}
    for entry in table:
        shape = _leaf(shapes, entry.ours).shape
        layers = [None] if not entry.stacked else range(shape[0])
        one = shape[1:] if entry.stacked else shape
        arrays = [_joined([_take(tensors, n, _part(entry, one), source) for n in _names(entry, i)], one, entry.inputs)
                  for i in layers]  # fmt: skip
        place = params
        for name in entry.ours[:-1]:
            place = place.setdefault(name, {})
        place[entry.ours[-1]] = np.stack(arrays) if entry.stacked else arrays[0]
    assert jax.tree.structure(params) == jax.tree.structure(shapes), "the table lacks a parameter of the model"
    return params


def to_tensors(table: list[Entry], params: PyTree) -> dict[str, np.ndarray]:
    """Their tensors, float32, of our parameters."""
    tensors = {}
    for entry in table:
        array = np.asarray(_leaf(params, entry.ours), np.float32)
        for i, one in enumerate(array) if entry.stacked else [(None, array)]:
            tensors |= dict(zip(_names(entry, i), _parts(one, entry), strict=True))
    return tensors


def names_of(table: list[Entry], layers: int) -> set[str]:
    """The names of all their tensors that are parameters of ours."""
    return {name for entry in table for i in (range(layers) if entry.stacked else [None]) for name in _names(entry, i)}


def _leaf(tree: PyTree, path: tuple[str, ...]):
    for name in path:
        tree = tree[name]
    return tree


def _names(entry: Entry, layer: int | None) -> list[str]:
    return [name.format(layer=layer) for name in entry.theirs]


def _part(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each of their tensors for one of our arrays."""
    if entry.inputs:
        return math.prod(shape[entry.inputs :]) // len(entry.theirs), math.prod(shape[: entry.inputs])
    return shape if len(entry.theirs) == 1 else (math.prod(shape) // len(entry.theirs),)


def _joined(parts: list[np.ndarray], shape: tuple[int, ...], inputs: int) -> np.ndarray:
    """One of our arrays of its parts: [in, part, out] for kernels, [part, ...] for the rest, on axes of our own."""
    if inputs:
        return np.stack([part.T for part in parts], axis=1).reshape(shape)
    return np.stack(parts).reshape(shape)


def _parts(array: np.ndarray, entry: Entry) -> list[np.ndarray]:
    """The inverse of `_joined`."""
    part, count = _part(entry, array.shape), len(entry.theirs)
    if entry.inputs:
        return list(array.reshape(part[1], count, part[0]).transpose(1, 2, 0))
    return list(array.reshape(count, *part))


def _take(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    if name not in tensors:
        raise InputError(f"{source}: the tensor {name} is missing; it should have the shape {shape}")
    tensor = tensors[name]
    if tensor.shape != shape:
        raise InputError(f"{source}: {name} has the shape {tensor.shape}, the configuration asks for {shape}")
    if tensor.dtype.name not in ("float16", "bfloat16", "float32"):
        raise InputError(f"{source}: {name} holds {tensor.dtype.name}; float32, float16 and bfloat16 are read")
    return tensor.astype(np.float32)
