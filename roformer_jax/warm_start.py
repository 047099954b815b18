"""Starting from another run: its architecture, its tokenizer, and the weights that fit."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig
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
)
ENCODER = "encoder."


def architecture_of(run: Path, model: RoFormerConfig) -> RoFormerConfig:
    """The model of `run` with the dropout rates, pooling, dtype and rematerialisation of `model`."""
    saved = read_json(run / CONFIG).get("model", {})
    known = {field.name for field in dataclasses.fields(RoFormerConfig)} - set(FREE)
    if not known <= set(saved):
        raise InputError(f"{run / CONFIG} lacks model.{sorted(known - set(saved))[0]}: another version wrote it")
    return dataclasses.replace(model, **{name: saved[name] for name in known})


def start_from(run: Path, kind: str, params: PyTree) -> tuple[PyTree, str]:
    """`params` with the weights of `run` in their place.

    Taken are its encoder, and its head where both are experiments of one kind and the head has the same shape.

    Args:
      run: folder of a run with a checkpoint.
      kind: class name of the experiment that starts.
      params: freshly initialised parameters; shapes and shardings are kept.

    Returns:
      The parameters, and a report of which were loaded, which are new, and which of the run's are not used.

    Raises:
      InputError: no such run or checkpoint, an encoder of other shapes, or weights that are not finite (named).
      DamagedError: every checkpoint of the run is damaged.
    """
    saved = restore_params(run / CHECKPOINTS)
    same_kind = read_json(run / CONFIG).get("experiment") == kind
    old, new = flatten(saved), flatten(params)
    loaded = _encoder_names(run, old, new) | (_head_names(old, new) if same_kind else set())
    for name in sorted(loaded):
        if not np.all(np.isfinite(old[name])):
            raise InputError(f"{run}: {name} holds a NaN or an infinity; start from another run")

    def place(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = ".".join(str(entry.key) for entry in path)
        return jax.device_put(np.asarray(old[name], leaf.dtype), leaf.sharding) if name in loaded else leaf

    report = "\n".join(
        [
            f"parameters from {run}:",
            f"  loaded  {_describe(loaded, new)}",
            f"  new     {_describe(set(new) - loaded, new)}",
            f"  unused  {_describe(set(old) - loaded, old)}",
        ]
    )
    return jax.tree_util.tree_map_with_path(place, params), report


def _encoder_names(run: Path, old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """The encoder's parameters that both have; refuses them in another shape."""
    names = {name for name in new if name.startswith(ENCODER) and name in old}
    for name in sorted(names):
        if old[name].shape != new[name].shape:
            raise InputError(f"{run}: {name} has shape {old[name].shape}, the model needs {new[name].shape}")
    return names


def _head_names(old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """The head's parameters if every one fits; half a head would be worth nothing."""
    names = {name for name in new if not name.startswith(ENCODER)}
    return names if all(name in old and old[name].shape == new[name].shape for name in names) else set()


def _describe(names: set[str], leaves: dict[str, Any]) -> str:
    """Counts, and names down to the second level."""
    if not names:
        return "none"
    groups = sorted({".".join(name.split(".")[:2]) for name in names})
    return f"{sum(leaves[name].size for name in names):,} in {len(names)} arrays: {', '.join(groups)}"
