"""Hugging Face checkpoints of RoFormer (v1 and v2) and BERT as parameters of ours, and back.

A checkpoint is a folder of `config.json`, safetensors and a tokenizer. Everything in it is used, known to be a copy,
or told to be left out; anything else is an error.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from roformer_jax.data.files import read_object
from roformer_jax.errors import InputError
from roformer_jax.interop.configuration import Description, configuration, described, family_of
from roformer_jax.interop.tensor_files import WHOLE, Tensors, read_tensors, write_object, write_tensors
from roformer_jax.interop.weights import entries, names_of, to_params, to_tensors
from roformer_jax.models import Head, RoFormerConfig, build
from roformer_jax.typing import PyTree

CONFIG = "config.json"
COPIES = {  # tensors that repeat others where the tables are tied
    "cls.predictions.decoder.weight": "{prefix}embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
LEFT_OUT = ("pooler.", "cls.seq_relationship.")  # heads that we do not have; of BERT also its classifiers
INSIDE = ("embeddings.", "encoder.", "embeddings_project.", "pooler.")  # parts of the encoder alone
BERT_HEADS = ("classifier.", "qa_outputs.")


class Checkpoint(NamedTuple):
    """A model with its parameters, NumPy float32."""

    description: Description
    params: PyTree
    left_out: tuple[str, ...]
    """Names of the tensors of the checkpoint that no part of our model has."""


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the config.json of a Hugging Face model."""
    return (folder / CONFIG).is_file() and "model_type" in read_object(folder / CONFIG)


def describe(folder: Path) -> Description:
    """What the config.json of a checkpoint says; see `described` for what it refuses."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder with a checkpoint ({CONFIG}, {WHOLE}, a tokenizer)")
    return described(read_object(folder / CONFIG), str(folder / CONFIG))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; every tensor's name, shape and type is checked.

    Raises:
      InputError: another architecture, a damaged file, a tensor that is missing, of another shape, not finite, or of no
        use; the message names file and tensor.
    """
    description = describe(folder)
    family, head, model, labels = description
    tensors = _renamed(read_tensors(folder), family, head, str(folder))
    table = list(entries(model, head, family))
    shapes = jax.eval_shape(build(model, head, len(labels)).init, jax.random.key(0))
    unread = _take_decoder_bias(tensors, model)
    params = to_params(table, shapes, tensors, str(folder))
    rest = {name: tensors[name] for name in tensors.keys() - names_of(table, model.num_hidden_layers)}
    left_out = _account_for(rest, tensors, description, str(folder))
    _check_finite(tensors, str(folder))
    return Checkpoint(description, params, left_out + unread)


def write_checkpoint(
    folder: Path, model: RoFormerConfig, head: Head, params: PyTree, *, labels: tuple[str, ...] = (), length: int = 0
) -> dict[str, object]:
    """Write `config.json` and `model.safetensors` that transformers loads; returns the former's content.

    Args:
      folder: an existing folder.
      model: the model's configuration.
      head: its head.
      params: its parameters.
      labels: names of a classifier's outputs; empty for a regression.
      length: tokens of the longest row that the model should read in transformers, which has a table of positions.

    Raises:
      InputError: transformers has no such model, a parameter is not finite, or there are other outputs than labels.
      OSError: a file cannot be written.
    """
    config = configuration(model, head, labels, length)
    family = family_of(model, head)
    tensors = to_tensors(list(entries(model, head, family)), params)
    _check_labels(tensors, head, labels)
    prefix = "" if head == "encoder" else f"{family}."
    if not model.type_vocab_size:  # transformers has such a table always: one that adds nothing
        tensors[f"{prefix}embeddings.token_type_embeddings.weight"] = np.zeros((1, model.embedding_width), np.float32)
    if not model.tie_word_embeddings and "cls.predictions.bias" in tensors:
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    if family == "roformer":  # transformers computes it where it is missing, but warns of new weights
        table = sinusoids(config["max_position_embeddings"], model.head_size)
        tensors[f"{prefix}encoder.embed_positions.weight"] = table.astype(np.float32)
    _check_finite(tensors, "the parameters")
    write_tensors(folder, tensors)
    write_object(folder / CONFIG, config)  # last: without it, the folder is no checkpoint
    return config


def sinusoids(rows: int, dim: int) -> np.ndarray:
    """The table of `embed_positions` that transformers' RoFormer rotates by: [rows, dim], sines then cosines.

    In its own words, to the last bit: a position over 10000^(2i/dim).
    """
    angles = np.arange(rows)[:, None] / np.power(10000, 2 * np.arange(dim // 2) / dim)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _renamed(tensors: Tensors, family: str, head: Head, source: str) -> Tensors:
    """The tensors under the names that this head has them by, which transformers understands too.

    The encoder alone has no name of the family in front, and old checkpoints have TensorFlow's names of norms.

    Raises:
      InputError: two tensors get one name.
    """
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        new = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if head == "encoder":
            new = new.removeprefix(f"{family}.")
        elif new.startswith(INSIDE):
            new = f"{family}.{new}"
        if new in renamed:
            raise InputError(f"{source}: {new} is there twice, the second time as {name}")
        renamed[new] = tensor
    return renamed


def _take_decoder_bias(tensors: Tensors, model: RoFormerConfig) -> tuple[str, ...]:
    """The bias of the logits under one name; returns the name of what nothing reads.

    Where tables are not tied, transformers adds `decoder.bias`; `bias` is then a parameter of no use.
    """
    bias, decoder = "cls.predictions.bias", "cls.predictions.decoder.bias"
    if decoder not in tensors or (bias in tensors and model.tie_word_embeddings):
        return ()
    unread = tensors.get(bias)
    tensors[bias] = tensors[decoder]
    return (bias,) if unread is not None and not np.array_equal(unread, tensors[bias]) else ()


def _check_labels(tensors: Tensors, head: Head, labels: tuple[str, ...]) -> None:
    """Every output has its name."""
    bias = {"classifier": "classifier.out_proj.bias", "token_classifier": "classifier.bias"}.get(head)
    if bias is not None and len(tensors[bias]) != len(labels or ("",)):
        raise InputError(f"the {head} has {len(tensors[bias])} outputs, but there are {len(labels)} labels for them")


def _check_finite(tensors: Tensors, source: str) -> None:
    for name, tensor in tensors.items():
        if not np.all(np.isfinite(tensor.astype(np.float32))):
            raise InputError(f"{source}: {name} holds a NaN or an infinity")


def _account_for(rest: Tensors, tensors: Tensors, description: Description, source: str) -> tuple[str, ...]:
    """The names of what is left out of the tensors that are no parameters of ours.

    Raises:
      InputError: a tensor has no known meaning, or a copy is none.
    """
    family, head, model, _ = description
    prefix = "" if head == "encoder" else f"{family}."
    heads = LEFT_OUT + (BERT_HEADS if family == "bert" else ())
    left_out = []
    for name, tensor in sorted(rest.items()):
        if name.removeprefix(prefix).startswith(heads):
            left_out.append(name)
        elif name in COPIES:
            _check_equal(tensor, tensors.get(COPIES[name].format(prefix=prefix)), 0.0, f"{source}: {name}")
        elif name == f"{prefix}encoder.embed_positions.weight" and family == "roformer" and tensor.ndim == 2:
            tolerance = 1e-6 if tensor.dtype == np.float32 else 2.0**-8
            expected = sinusoids(len(tensor), model.head_size) if tensor.shape[1] == model.head_size else None
            _check_equal(tensor, expected, tolerance, f"{source}: {name}")
        elif name == f"{prefix}embeddings.position_ids":
            _check_equal(tensor.ravel(), np.arange(tensor.size), 0.0, f"{source}: {name}")
        elif name == f"{prefix}embeddings.token_type_embeddings.weight" and not np.any(tensor):
            pass
        else:
            raise InputError(
                f"{source}: {name} {tensor.shape} is no part of the {head} model of type {family!r} that {CONFIG} "
                "describes; is it another architecture's?"
            )
    return tuple(left_out)


def _check_equal(tensor: np.ndarray, expected: np.ndarray | None, tolerance: float, name: str) -> None:
    same = expected is not None and tensor.shape == expected.shape
    if not (same and np.allclose(tensor.astype(np.float64), expected, rtol=0, atol=tolerance)):
        raise InputError(
            f"{name} should repeat other tensors, or be computed from positions, but has values of its own"
        )
