"""Starting from other weights, of a run or of a Hugging Face checkpoint: their architecture and all that fits."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from roformer_jax.data.files import resolve
from roformer_jax.errors import InputError
from roformer_jax.interop.huggingface import describe, is_checkpoint, read_checkpoint
from roformer_jax.models import Head, RoFormerConfig
from roformer_jax.run_folder import CHECKPOINTS, CONFIG, flatten, read_json
from roformer_jax.training.checkpoint import restore_params
from roformer_jax.typing import PyTree

# Fields that the new run decides; the rest is the architecture of the weights.
FREE = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "classifier_pooling",
    "dtype",
    "remat",
    "unroll",
)
ENCODER = "encoder."
InitPositions = Literal["keep", "rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none"]


class Weights(NamedTuple):
    """What there is to start from."""

    arrays: dict[str, Any]
    """Parameters by dotted name."""
    has_head: bool
    """Whether they have a head of the new experiment's kind."""
    left_out: tuple[str, ...]
    """Tensors of a Hugging Face checkpoint that no model of ours has."""


def architecture_of(init_from: str, model: RoFormerConfig, positions: InitPositions) -> RoFormerConfig:
    """The model of `init_from` with what `FREE` names of `model`, and other positions if so asked.

    Raises:
      InputError: no such run or checkpoint, or one of another version or architecture.
    """
    folder = resolve(init_from)
    if is_checkpoint(folder):
        saved = dataclasses.asdict(describe(folder).model)
    else:
        saved = read_json(folder / CONFIG).get("model", {})
    known = {field.name for field in dataclasses.fields(RoFormerConfig)} - set(FREE)
    if not known <= set(saved):
        raise InputError(f"{folder / CONFIG} lacks model.{sorted(known - set(saved))[0]}: another version wrote it")
    fields = {name: saved[name] for name in known}
    if positions != "keep":
        fields["position_encoding"] = positions
    return dataclasses.replace(model, **fields)


def start_from(init_from: str, kind: str, head: Head, params: PyTree) -> tuple[PyTree, str]:
    """`params` with the weights of `init_from` in their place.

    Taken are its encoder, and its head where that is one of the same kind and shape.

    Args:
      init_from: a run with a checkpoint, or a Hugging Face checkpoint.
      kind: class name of the experiment that starts.
      head: the head of its model.
      params: freshly initialised parameters; shapes and shardings are kept.

    Returns:
      The parameters, and a report of which were loaded, which are new, and which of the others' are not used.

    Raises:
      InputError: no such run or checkpoint, an encoder of other shapes, or weights that are not finite (named).
      DamagedError: every checkpoint of the run is damaged.
    """
    weights = read_weights(init_from, kind, head)
    old, new = weights.arrays, flatten(params)
    loaded = _encoder_names(init_from, old, new) | (_head_names(old, new) if weights.has_head else set())
    for name in sorted(loaded):
        if not np.all(np.isfinite(old[name])):
            raise InputError(f"{init_from}: {name} holds a NaN or an infinity; start from another run")

    def place(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = ".".join(str(entry.key) for entry in path)
        return jax.device_put(np.asarray(old[name], leaf.dtype), leaf.sharding) if name in loaded else leaf

    report = [
        f"parameters from {init_from}:",
        f"  loaded  {_describe(loaded, new)}",
        f"  new     {_describe(set(new) - loaded, new)}",
        f"  unused  {_describe(set(old) - loaded, old)}",
    ]
    if weights.left_out:
        report.append(f"  left out, for no model here has them: {', '.join(weights.left_out)}")
    return jax.tree_util.tree_map_with_path(place, params), "\n".join(report)


def read_weights(init_from: str, kind: str, head: Head) -> Weights:
    """The weights of a run or a checkpoint; see `start_from`."""
    folder = resolve(init_from)
    if is_checkpoint(folder):
        checkpoint = read_checkpoint(folder)
        return Weights(flatten(checkpoint.params), checkpoint.description.head == head, checkpoint.left_out)
    has_head = read_json(folder / CONFIG).get("experiment") == kind
    return Weights(flatten(restore_params(folder / CHECKPOINTS)), has_head, ())


def _encoder_names(source: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """The encoder's parameters that both have; refuses them in another shape."""
    names = {name for name in new if name.startswith(ENCODER) and name in old}
    for name in sorted(names):
        if old[name].shape != new[name].shape:
            raise InputError(f"{source}: {name} has shape {old[name].shape}, the model needs {new[name].shape}")
    return names


def _head_names(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    """The head's parameters if every one fits; half a head would be worth nothing."""
    names = {name for name in new if not name.startswith(ENCODER)}
    return names if all(name in old and old[name].shape == new[name].shape for name in names) else set()


def _describe(names: set[str], leaves: Mapping[str, Any]) -> str:
    """Counts, and names down to the second level."""
    if not names:
        return "none"
    groups = sorted({".".join(name.split(".")[:2]) for name in names})
    return f"{sum(leaves[name].size for name in names):,} in {len(names)} arrays: {', '.join(groups)}"
