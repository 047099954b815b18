"""The real update of an experiment, compiled for the devices of a slice."""

import math
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from roformer_jax.experiment import Experiment
from roformer_jax.planning.arithmetic import matmul_flops
from roformer_jax.planning.collectives import Traffic, collectives
from roformer_jax.planning.hlo import parse
from roformer_jax.planning.memory_traffic import Bytes, bytes_moved
from roformer_jax.sharding import BATCH_AXES, make_mesh, parameter_shardings
from roformer_jax.tasks.task import Problem
from roformer_jax.training.optimizer import make_optimizer, make_schedule
from roformer_jax.training.state import TrainState, create_state
from roformer_jax.training.step import make_train_step
from roformer_jax.typing import Array

OUT_OF_MEMORY = (  # libtpu's words for the temporaries alone, and for everything
    re.compile(r"HLO temporaries \((?P<size>[\d.]+)(?P<unit>[KMGT])\) exceeds"),
    re.compile(r"Used (?P<size>[\d.]+)(?P<unit>[KMGT]) of [\d.]+[KMGT] hbm"),
)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes of a device.

    Attributes:
      parameters: float32 parameters.
      optimizer: moments and counts.
      batch: the rows of an update.
      temporaries: activations and gradients; the compiler's.
      program: its code; the compiler's.
      peak: all of it at once, as the compiler lays it out.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    program: int
    peak: int


class Compiled(NamedTuple):
    """What the compiler says of an update, per device.

    Attributes:
      fits: whether it found room; `memory.peak` is what it asked for.
      memory: bytes held.
      moved: bytes read and written; None where it does not fit.
      traffic: what is sent between devices.
      flops: of the program's matrix products, recomputation included.
      body_flops: FLOPs as the compiler counts them, a loop's body once; None where it does not say (GPUs).
      seconds: how long it took to compile.
    """

    fits: bool
    memory: Memory
    moved: Bytes | None
    traffic: dict[str, Traffic]
    flops: float
    body_flops: float | None
    seconds: float


def compile_update(experiment: Experiment, steps: int, devices: list[jax.Device]) -> Compiled:
    """Compile an experiment's update for devices that need not be there.

    Raises:
      InputError: a mesh that does not cover the devices, or does not divide the model.
    """
    mesh = make_mesh(experiment.mesh, devices)
    problem = experiment.problem()
    experiment.model.check_mesh(mesh.shape, problem.batch["ids"].shape[-1])
    platform = {"gpu": "cuda"}.get(devices[0].platform, devices[0].platform)
    began, key = time.monotonic(), jax.random.key(0)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state, optimizer = abstract_state(experiment, steps, problem, mesh)
        batch = abstract_batch(problem, mesh)
        step = make_train_step(problem.loss, optimizer, make_schedule(experiment.optimizer, steps), key)
        traced = step.func.trace(state, batch, key=abstract(key, mesh, PartitionSpec()))
        flops = matmul_flops(traced.jaxpr) / len(devices)
        held = [device_bytes(tree) for tree in (state.params, state.opt_state, batch)]
        try:
            compiled = traced.lower(lowering_platforms=(platform,)).compile()
        except jax.errors.JaxRuntimeError as error:
            return Compiled(False, refused(held, str(error)), None, {}, flops, None, time.monotonic() - began)
    program = parse(compiled.as_text())
    return Compiled(
        fits=True,
        memory=laid_out(held, compiled.memory_analysis()),
        moved=bytes_moved(program),
        traffic=collectives(program, len(devices)),
        flops=flops,
        body_flops=(compiled.cost_analysis() or {}).get("flops"),
        seconds=time.monotonic() - began,
    )


def abstract(shape: jax.ShapeDtypeStruct | Array, mesh: Mesh, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
    """An array of this shape, laid out on a mesh."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(mesh, spec))


def abstract_state(experiment: Experiment, steps: int, problem: Problem, mesh: Mesh) -> tuple[TrainState, object]:
    """The state before the first update, as `experiment.run` makes it but without its arrays; and the optimizer."""
    shapes = jax.eval_shape(problem.model.init, jax.eval_shape(lambda: jax.random.key(0)))
    shardings = parameter_shardings(mesh, shapes, problem.model.axes)
    params = jax.tree.map(lambda leaf, sharding: abstract(leaf, mesh, sharding.spec), shapes, shardings)
    optimizer = make_optimizer(experiment.optimizer, steps, shapes)
    state = jax.eval_shape(lambda params: create_state(params, optimizer), params)
    whole = PartitionSpec()
    placed = jax.tree.map(lambda leaf: abstract(leaf, mesh, leaf.sharding.spec if leaf.sharding else whole), state)
    return placed, optimizer


def abstract_batch(problem: Problem, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch as `place_batch` places it, filled up with empty rows where the devices do not divide it."""
    groups = math.prod(mesh.shape[axis] for axis in BATCH_AXES)

    def placed(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        microbatches, rows, *rest = array.shape
        filled = jax.ShapeDtypeStruct((microbatches, rows + -rows % groups, *rest), array.dtype)
        return abstract(filled, mesh, PartitionSpec(None, BATCH_AXES))

    return {name: placed(array) for name, array in problem.batch.items()}


def device_bytes(tree) -> int:
    """Bytes of the arrays of a tree that one device holds, unpadded."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)


def laid_out(held: list[int], analysis) -> Memory:
    """The compiler's figures beside those of the arrays."""
    arrays = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    code = analysis.generated_code_size_in_bytes
    return Memory(*held, analysis.temp_size_in_bytes, code, arrays + analysis.temp_size_in_bytes + code)


def refused(held: list[int], message: str) -> Memory:
    """What the compiler asked for and did not find room for.

    Raises:
      RuntimeError: it failed for another reason.
    """
    temporaries, everything = (pattern.search(message) for pattern in OUT_OF_MEMORY)
    asked = temporaries or everything
    if asked is None:
        raise RuntimeError(f"the compiler failed: {message}")
    size = round(float(asked["size"]) * UNITS[asked["unit"]])
    beside = sum(held) if temporaries else 0
    return Memory(*held, size + beside - sum(held), 0, size + beside)
