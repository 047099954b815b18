"""One explicit mesh: where batches and parameters lie, and where whole weights are gathered.

Axes: `data` splits the rows of a batch; `fsdp` splits the rows too, and the parameters and their optimizer moments
with them (fully sharded data parallelism). Under `jax.set_mesh(make_mesh(...))` shardings are part of array types.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from roformer_jax.errors import InputError
from roformer_jax.typing import Array, PyTree

BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are arranged."""

    data: int = -1
    """Devices that split the rows of a batch; -1 takes all that remain."""
    fsdp: int = 1
    """Devices that split the rows and the parameters."""


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh of all devices of the run, with explicit axes `data` and `fsdp`.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    data = devices // config.fsdp if config.data == -1 and config.fsdp > 0 else config.data
    if data < 1 or config.fsdp < 1 or data * config.fsdp != devices:
        raise InputError(
            f"mesh: data={config.data} x fsdp={config.fsdp} does not cover the {devices} devices of this run; "
            "choose sizes whose product is that number (data=-1 takes what remains)"
        )
    return jax.make_mesh((data, config.fsdp), BATCH_AXES, axis_types=(AxisType.Explicit,) * 2)


def parameter_shardings(mesh: Mesh, shapes: PyTree) -> PyTree:
    """A sharding per parameter: the largest axis that the size of `fsdp` divides is split over it, if there is one.

    The first of several axes is never split: in stacked blocks it counts the layers, and a scan walks along it.
    """

    def sharding(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        size = mesh.shape["fsdp"]
        first = 1 if leaf.ndim > 1 else 0
        divisible = [axis for axis in range(first, leaf.ndim) if leaf.shape[axis] % size == 0]
        if size == 1 or not divisible:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*("fsdp" if axis == largest else None for axis in range(leaf.ndim))))

    return jax.tree.map(sharding, shapes)


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, *, whole: bool = False) -> dict[str, Array]:
    """Rows [microbatches, rows, ...] as global arrays whose rows are split over the mesh.

    A number of rows that the devices do not divide is filled up with empty rows (all zero: no segment, no weight),
    which changes neither loss nor gradient.

    Args:
      batch: this process's share of the rows; with `whole`, all of them, the same in every process.
      mesh: as from `make_mesh`.
      whole: for evaluation, whose batches every process makes alike.
    """
    shards = mesh.size if whole else mesh.size // jax.process_count()
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def place(rows: np.ndarray) -> Array:
        missing = -rows.shape[1] % shards
        filled = np.pad(rows, [(0, 0), (0, missing)] + [(0, 0)] * (rows.ndim - 2)) if missing else rows
        return jax.make_array_from_process_local_data(sharding, filled, filled.shape if whole else None)

    return {name: place(rows) for name, rows in batch.items()}


def gathered(params: PyTree) -> PyTree:
    """Whole copies of sharded parameters, made where they are used; their gradients are scattered back."""
    if jax.sharding.get_abstract_mesh().empty:
        return params
    return jax.tree.map(lambda leaf: jax.reshard(leaf, PartitionSpec()), params)


def like(x: Array, *, extra_axes: int = 0) -> NamedSharding | None:
    """The sharding of `x`, with `extra_axes` unsharded axes behind; None outside an explicit mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    sharding = jax.typeof(x).sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec, *(None,) * extra_axes))
