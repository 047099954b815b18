"""The tensors of a checkpoint's folder: safetensors, whole or in shards. Nothing in a file is ever executed."""

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from roformer_jax.data.files import read_object
from roformer_jax.errors import InputError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; save_file({name: tensor.clone().'
    "contiguous() for file in sys.argv[2:] for name, tensor in torch.load(file, map_location='cpu', "
    "weights_only=True).items()}, sys.argv[1], metadata={'format': 'pt'})\" "
)
"""What turns pickles into one safetensors file; the arguments are that file and the pickles."""

Tensors = dict[str, np.ndarray]


def read_tensors(folder: Path) -> Tensors:
    """Every tensor of the folder's `model.safetensors`, or of the shards that its index names.

    Raises:
      InputError: neither file is there (a pickle is refused, with the command that converts it), a file is damaged, or
        index and shards do not agree.
    """
    if (folder / WHOLE).is_file():
        return _read_file(folder / WHOLE)
    if not (folder / INDEX).is_file():
        raise InputError(_nothing_to_read(folder))
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{folder / INDEX}: no weight_map from the names of tensors to those of files")
    files = sorted(set(weight_map.values()))
    for name in files:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(
                f"{folder / INDEX} names the file {name!r}; shards are .safetensors files beside the index"
            )
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing; {INDEX} names it")
    tensors: Tensors = {}
    for name in files:
        shard = _read_file(folder / name)
        promised = {tensor for tensor, file in weight_map.items() if file == name}
        if set(shard) != promised:
            wrong = sorted(set(shard) ^ promised)[0]
            where = "the file alone" if wrong in shard else "the index alone"
            raise InputError(f"{folder / name} and {INDEX} do not agree: {wrong} is in {where}")
        tensors |= shard
    return tensors


def write_tensors(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write `model.safetensors`, marked as transformers wants it; what has its name is replaced at once or not at all.

    Raises:
      OSError: it cannot be written.
    """
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    _write(folder / WHOLE, save(contiguous, metadata={"format": "pt"}))


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object as transformers does: indented and sorted; replaced at once or not at all."""
    _write(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _read_file(path: Path) -> Tensors:
    """The tensors of one safetensors file; the library checks that header and content fit to the byte."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is damaged, or no safetensors file: {error}") from None


def _nothing_to_read(folder: Path) -> str:
    """Why a folder has no tensors that may be read, and what to do."""
    if not folder.is_dir():
        return f"{folder} is not a folder with a checkpoint"
    pickles = sorted(folder.glob("pytorch_model*.bin")) or [path for end in PICKLES for path in folder.glob(end)][:1]
    if not pickles:
        return f"{folder} holds neither {WHOLE} nor {INDEX}"
    command = CONVERT + shlex.join(str(path) for path in (folder / WHOLE, *pickles))
    return (
        f"{pickles[0]} is a pickle, which can run any code when it is read; it is not read here. If you trust its "
        f"tensors, convert it where PyTorch and safetensors are installed:\n{command}"
    )
