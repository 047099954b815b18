"""One explicit mesh, and one table that says which of its axes splits what.

Mesh axes: `data` splits the rows of a batch; `fsdp` splits the rows too, and the parameters and their optimizer moments
with them (fully sharded data parallelism); `tensor` splits the attention heads and the feed-forward layer (Megatron-LM,
arXiv 1909.08053); `sequence` splits the tokens of a row everywhere but in attention, which sees whole rows of a part of
the heads (DeepSpeed-Ulysses, arXiv 2309.14509). Under `jax.set_mesh(make_mesh(...))` shardings are part of array types.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.typing import Array, PyTree

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How the devices are arranged.

    Raises:
      InputError: a size is no whole number of devices; the message names its field.
    """

    data: int = -1
    """Devices that split the rows of a batch; -1 takes all that remain."""
    fsdp: int = 1
    """Devices that split the rows and the parameters."""
    tensor: int = 1
    """Devices that split the attention heads and the feed-forward layer."""
    sequence: int = 1
    """Devices that split the tokens of a row; in attention, its heads."""

    def __post_init__(self):
        check_types(self, "mesh.")
        for axis in AXES:
            size = getattr(self, axis)
            if size < 1 and (axis, size) != ("data", -1):
                raise InputError(f"mesh.{axis} = {size} must be 1 or more{' or -1' if axis == 'data' else ''}")


@dataclass(frozen=True, kw_only=True)
class ShardingRules:
    """Name of an axis of an array -> the mesh axes that split it; what has no name here is not split."""

    length: tuple[str, ...] = ("sequence",)
    """Tokens of a row, outside attention."""
    predictions: tuple[str, ...] = ("sequence", "tensor")
    """Tokens of a row that a language-model head reads."""
    heads: tuple[str, ...] = ("tensor",)
    """Heads of a projection's weights and of what it makes."""
    heads_of_whole_rows: tuple[str, ...] = ("tensor", "sequence")
    """Heads in attention."""
    mlp: tuple[str, ...] = ("tensor",)
    """Width of the feed-forward layer."""
    embed: tuple[str, ...] = ("fsdp",)
    """Width of the residual stream in parameters, which are whole where they are used (`gathered`)."""

    def spec(self, axes: Sequence[str | None], mesh: Mesh | AbstractMesh) -> PartitionSpec:
        """How an array with these axes lies on a mesh; mesh axes of one device are left out.

        Raises:
          ValueError: two axes of the array want the same mesh axis.
        """
        wanted = [() if axis is None else getattr(self, axis) for axis in axes]
        taken = [name for names in wanted for name in names]
        if len(taken) != len(set(taken)):
            raise ValueError(f"axes {tuple(axes)} of one array would be split over the same mesh axis: {wanted}")
        split = (tuple(name for name in names if mesh.shape.get(name, 1) > 1) for names in wanted)
        return PartitionSpec(*(names or None for names in split))


RULES = ShardingRules()


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of all devices of the run, or of those given, with explicit axes `AXES`.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    others = config.fsdp * config.tensor * config.sequence
    data = count // others if config.data == -1 else config.data
    sizes = (data, config.fsdp, config.tensor, config.sequence)
    if min(sizes) < 1 or math.prod(sizes) != count:
        given = " x ".join(f"{axis}={getattr(config, axis)}" for axis in AXES)
        raise InputError(
            f"mesh: {given} does not cover the {count} devices of this run; "
            "choose sizes whose product is that number (data=-1 takes what remains)"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Explicit,) * len(AXES), devices=devices)


def parameter_shardings(mesh: Mesh, shapes: PyTree, axes: PyTree) -> PyTree:
    """A sharding per parameter, by the names of its axes.

    Args:
      mesh: as from `make_mesh`.
      shapes: shape of every parameter.
      axes: names of the last axes of each, for `RULES`; those before them (the layers of stacked blocks) are not split.

    Raises:
      ValueError: a mesh axis does not divide the axis that it would split.
    """

    def sharding(path, leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> NamedSharding:
        found = NamedSharding(mesh, RULES.spec((None,) * (leaf.ndim - len(names)) + tuple(names), mesh))
        try:
            found.shard_shape(leaf.shape)
        except ValueError as error:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"parameter {name} of shape {leaf.shape} cannot be split as {found.spec} over {dict(mesh.shape)}"
            ) from error
        return found

    return jax.tree_util.tree_map_with_path(sharding, shapes, axes)


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, *, whole: bool = False) -> dict[str, Array]:
    """Rows [microbatches, rows, ...] as global arrays whose rows are split over the mesh.

    A number of rows that the devices do not divide is filled up with empty rows (all zero: no segment, no weight),
    which changes neither loss nor gradient.

    Args:
      batch: this process's share of the rows (`share_of_rows`); with `whole`, all of them, the same in every process.
      mesh: as from `make_mesh`.
      whole: for evaluation, whose batches every process makes alike.
    """
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    groups = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    _, shares = share_of_rows(mesh)
    parts = groups if whole else groups // shares

    def place(rows: np.ndarray) -> Array:
        missing = -rows.shape[1] % parts
        filled = np.pad(rows, [(0, 0), (0, missing)] + [(0, 0)] * (rows.ndim - 2)) if missing else rows
        count = filled.shape[1] if whole else filled.shape[1] * shares
        shape = (filled.shape[0], count, *filled.shape[2:])
        return jax.make_array_from_process_local_data(sharding, filled, shape)

    return {name: place(rows) for name, rows in batch.items()}


def share_of_rows(mesh: Mesh) -> tuple[int, int]:
    """Which share of a batch's rows this process reads, and how many shares there are.

    Processes whose devices hold the same rows (`tensor` or `sequence` goes across them) read the same share.
    """
    rows_of: dict[int, set[int]] = {}
    groups = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    order = [mesh.axis_names.index(axis) for axis in BATCH_AXES]
    devices = np.moveaxis(mesh.devices, order, range(len(order))).reshape(groups, -1)
    for row, group in enumerate(devices):
        for device in group:
            rows_of.setdefault(device.process_index, set()).add(row)
    shares = sorted({tuple(sorted(rows)) for rows in rows_of.values()})
    return shares.index(tuple(sorted(rows_of[jax.process_index()]))), len(shares)


def gathered(params: PyTree) -> PyTree:
    """Copies of parameters that are whole over `fsdp`, made where they are used; their gradients are split again."""
    if jax.sharding.get_abstract_mesh().empty:
        return params
    stored = set(RULES.embed)

    def gather(leaf: Array) -> Array:
        spec = jax.typeof(leaf).sharding.spec
        kept = (None if set((names,) if isinstance(names, str) else names or ()) & stored else names for names in spec)
        return jax.reshard(leaf, PartitionSpec(*kept))

    return jax.tree.map(gather, params)


def laid_out(x: Array, *axes: str | None) -> Array:
    """`x` split as `RULES` say for axes of these names, which follow the batch's; that one stays as it is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    batch = jax.typeof(x).sharding.spec[0]
    return jax.reshard(x, PartitionSpec(batch, *RULES.spec(axes, mesh)))


def parts(axis: str) -> int:
    """Parts into which the mesh that is set splits an axis of that name; 1 outside a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape.get(name, 1) for name in getattr(RULES, axis))


def like(x: Array, *, extra_axes: int = 0) -> NamedSharding | None:
    """The sharding of `x`, with `extra_axes` unsharded axes behind; None outside an explicit mesh."""
    sharding = jax.typeof(x).sharding
    if jax.sharding.get_abstract_mesh().empty or sharding.mesh.empty:  # the latter: it came from the host
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec, *(None,) * extra_axes))
