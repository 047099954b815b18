"""The record of a checkpoint: what every array in it is and a digest of what it holds, as JSON beside the arrays."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from roformer_jax.errors import DamagedError, InputError
from roformer_jax.training.digest import digests, name_of
from roformer_jax.typing import PyTree

FILE = "metadata"  # as orbax calls the file of a JSON item
LARGEST_RECORD = 2**26  # bytes; a hundred times what BERT-large needs
LARGEST_RATIO = 100  # bytes of arrays for each byte on disk: more is not a checkpoint but an attempt to fill the memory


class Leaf(NamedTuple):
    """One array: its shape, the name of its dtype, and its digest (see `digest`)."""

    shape: tuple[int, ...]
    dtype: str
    digest: str


class Record(NamedTuple):
    """The arrays of a checkpoint by name: item/path, e.g. params/encoder/embeddings/embedding."""

    leaves: Mapping[str, Leaf]

    def check_target(self, path: Path, items: Mapping[str, PyTree]) -> None:
        """Compares names, shapes and dtypes with those of `items`.

        Raises:
          InputError: they differ: the checkpoint at `path` is of another model.
        """
        wanted = {name: _kind(leaf) for name, leaf in _named(items).items()}
        found = {name: (leaf.shape, leaf.dtype) for name, leaf in self.leaves.items()}
        for name in sorted(set(wanted) | set(found)):
            if wanted.get(name) != found.get(name):
                raise InputError(
                    f"{path} is a checkpoint of another model: {name} is {_in_words(found.get(name))} there, and "
                    f"{_in_words(wanted.get(name))} here; choose another --run-dir, or the version that wrote it"
                )

    def check_content(self, items: Mapping[str, PyTree]) -> None:
        """Compares the digests of arrays that were read with those of the arrays that were written.

        Raises:
          DamagedError: they differ; the message names the arrays.
        """
        found, _ = digests(items)
        wrong = [name for name, digest in found.items() if self.leaves[name].digest != digest]
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DamagedError(f"digest of {wrong[0]}{more}")

    def target(self, path: Path, item: str) -> dict[str, Any]:
        """Arrays without memory of their own, as nested dicts, of the shapes and dtypes of one item.

        Raises:
          DamagedError: they are far larger than the files at `path`.
        """
        leaves = {name: leaf for name, leaf in self.leaves.items() if name.startswith(f"{item}/")}
        declared = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves.values())
        on_disk = sum(file.lstat().st_size for file in (path / item).rglob("*"))
        if declared > LARGEST_RATIO * on_disk:
            raise DamagedError(f"it declares {declared:,} bytes of parameters in files of {on_disk:,}")
        tree: dict[str, Any] = {}
        for name, leaf in leaves.items():
            *parents, last = name.split("/")[1:]
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        return tree


def record_of(items: Mapping[str, PyTree]) -> tuple[dict[str, Any], list[str]]:
    """The record of arrays as JSON values, and the names of those that hold a NaN or an infinity."""
    found, not_finite = digests(items)
    leaves = {
        name: {"shape": list(leaf.shape), "dtype": leaf.dtype.name, "digest": found[name]}
        for name, leaf in _named(items).items()
    }
    return {"leaves": leaves, "sha256": _sha256(leaves)}, not_finite


def read_record(folder: Path) -> Record:
    """The record that `record_of` made and orbax wrote into `folder`.

    Raises:
      DamagedError: it is missing, or is not what was written.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise DamagedError(f"record of {path.stat().st_size:,} bytes")
        content = json.loads(path.read_bytes())
        if content["sha256"] != _sha256(content["leaves"]):
            raise DamagedError("digest of the record")
        return Record({name: _leaf(values) for name, values in content["leaves"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"record: {type(error).__name__}") from error


def _leaf(values: Mapping[str, Any]) -> Leaf:
    """One array as the record describes it; ValueError where that describes none."""
    shape, dtype, digest = values["shape"], values["dtype"], values["digest"]
    if not all(type(size) is int and size >= 0 for size in shape) or not {type(dtype), type(digest)} == {str}:
        raise ValueError
    return Leaf(tuple(shape), dtype, digest)


def _named(items: Mapping[str, PyTree]) -> dict[str, Any]:
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(dict(items))}


def _kind(leaf: Any) -> tuple[tuple[int, ...], str]:
    return tuple(leaf.shape), leaf.dtype.name


def _in_words(kind: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if kind is None else f"{kind[1]}{list(kind[0])}"


def _sha256(leaves: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()
