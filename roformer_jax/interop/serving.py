"""A model as one program for any batch and length, on CPU, CUDA and TPU, that needs JAX and none of this package."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors.numpy import save_file

from roformer_jax import __version__
from roformer_jax.errors import InputError
from roformer_jax.models import Head, RoFormerConfig, build
from roformer_jax.typing import Array, PyTree

PROGRAM, WEIGHTS, MANIFEST = "model.jax", "params.safetensors", "serving.json"
PLATFORMS = ("cpu", "cuda", "tpu")


def write_program(
    folder: Path, model: RoFormerConfig, head: Head, params: PyTree, labels: tuple[str, ...], segmentation: str | None
) -> None:
    """Write `model.jax`, `params.safetensors` and `serving.json`, which has the sha256 of both.

    The program is `call(params, ids, mask, token_type_ids) -> float32`: the first is what safetensors loads, the others
    are int32 [batch, length], the mask 1 at tokens and 0 at padding. It gives the logits of every token [batch, length,
    vocabulary] of a language model, of every text [batch, classes] of a classifier, or its score [batch, 1].

    Args:
      folder: an existing folder.
      model: the model's configuration.
      head: "masked_lm", "causal_lm" or "classifier".
      params: its parameters.
      labels: names of a classifier's outputs; empty for a regression.
      segmentation: what finds the words for its tokenizer, "jieba"; None where the tokenizer's file says all.

    Raises:
      InputError: linear attention, whose chunks need a length that is known.
    """
    if model.attention == "linear":
        raise InputError("model.attention = linear is summed in chunks of a length that is known; it is not exported")
    flat, structure = named_arrays(params)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), flat)
    tokens = jax.ShapeDtypeStruct(export.symbolic_shape("batch, length"), jnp.int32)
    program = jax.jit(served(model, head, max(len(labels), 1), list(flat), structure))
    exported = export.export(program, platforms=PLATFORMS)(shapes, tokens, tokens, tokens)
    (folder / PROGRAM).write_bytes(exported.serialize())
    save_file(flat, folder / WEIGHTS)
    manifest = {
        "head": head,
        "labels": list(labels),
        "segmentation": segmentation,
        "platforms": list(PLATFORMS),
        "inputs": ["params", "ids", "mask", "token_type_ids"],
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (PROGRAM, WEIGHTS)},
        "made_with": {"roformer_jax": __version__, "jax": jax.__version__},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def named_arrays(params: PyTree) -> tuple[dict[str, np.ndarray], jax.tree_util.PyTreeDef]:
    """The arrays by their dotted names, as safetensors takes them, in the order of the structure beside them."""
    leaves, structure = jax.tree.flatten_with_path(jax.device_get(params))
    # It writes the memory of an array as it lies, also that of a transposed one.
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return {name: np.ascontiguousarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}, structure


def served(
    model: RoFormerConfig, head: Head, outputs: int, names: list[str], structure: jax.tree_util.PyTreeDef
) -> Callable[..., Array]:
    """The function that is exported, see `write_program`, of parameters with these names in this structure."""
    apply = build(model, head, outputs).apply

    def call(params: dict[str, Array], ids: Array, mask: Array, token_type_ids: Array) -> Array:
        nested = jax.tree.unflatten(structure, [params[name] for name in names])
        match head:
            case "masked_lm":
                everywhere = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
                return apply(nested, ids, mask, everywhere, token_type_ids)
            case "causal_lm":
                return apply(nested, ids, mask)
            case _:
                starts = jnp.zeros((ids.shape[0], 1), jnp.int32)
                return apply(nested, ids, mask, starts, token_type_ids)[:, 0]

    return call
