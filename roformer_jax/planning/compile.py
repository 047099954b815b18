"""The real update of an experiment, compiled for the devices of a slice."""

import math
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from roformer_jax.experiment import Experiment
from roformer_jax.planning.arithmetic import matmul_flops
from roformer_jax.planning.collectives import Traffic, collectives
from roformer_jax.planning.hlo import parse
from roformer_jax.planning.memory_traffic import Bytes, bytes_moved
from roformer_jax.sharding import make_mesh
from roformer_jax.update import make_update, placed

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
        update = make_update(problem, experiment.optimizer, steps, mesh, key, experiment.training.spike_sigmas)
        traced = update.step.func.trace(update.state, update.batch, key=placed(key, mesh, PartitionSpec()))
        flops = matmul_flops(traced.jaxpr) / len(devices)
        held = [device_bytes(tree) for tree in (update.state.params, update.state.opt_state, update.batch)]
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
