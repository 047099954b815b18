"""Plans: what a config's update needs and takes on a slice, what would make it fit, and how meshes compare."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.models import RoFormerConfig
from roformer_jax.planning.compile import Compiled, compile_update
from roformer_jax.planning.roofline import Prediction, predict
from roformer_jax.planning.topology import Slice
from roformer_jax.sharding import MeshConfig

ASSUMED_STEPS = 1_000  # where the number of updates follows from data that plan does not read
SECONDS_OF_AN_HOUR = 3600


class Plan(NamedTuple):
    """What is known of an experiment on a slice before it is rented.

    Attributes:
      changes: settings that differ from the config's, as flags.
      mesh: axis -> devices.
      devices: how many there are.
      compiled: the compiler's word.
      fits: whether the peak is within the chip's memory.
      model_flops: of one device and update.
      prediction: the roofline; None where it does not fit.
      tokens_per_second: of the slice, padding counted; None where it does not fit.
      hours: of the whole run; None where it does not fit or the config does not say how many updates there are.
      cost: in the currency of the price; None where there is no price or no hours.
    """

    changes: str
    mesh: dict[str, int]
    devices: int
    compiled: Compiled
    fits: bool
    model_flops: float
    prediction: Prediction | None
    tokens_per_second: float | None
    hours: float | None
    cost: float | None


def make_plan(experiment: Experiment, place: Slice, price: float | None, changes: str = "") -> Plan:
    """Compile and predict.

    Args:
      experiment: what is to run.
      place: where.
      price: of a chip and hour.
      changes: the flags that made `experiment` of the config.
    """
    compiled = compile_update(experiment, experiment.training.steps or ASSUMED_STEPS, place.devices)
    return predicted(compiled, experiment, place, price, changes)


def predicted(compiled: Compiled, experiment: Experiment, place: Slice, price: float | None, changes: str) -> Plan:
    """The plan of an update that is compiled."""
    steps, problem = experiment.training.steps, experiment.problem()
    devices = len(place.devices)
    model_flops = problem.flops / devices
    fits = compiled.fits and compiled.memory.peak <= place.chip.memory
    prediction = rate = hours = None
    if fits:
        prediction = predict(compiled, place.chip, experiment.model.dtype, model_flops)
        rate = problem.places / prediction.step
        hours = steps * prediction.step / SECONDS_OF_AN_HOUR if steps else None
    cost = None if price is None or hours is None else price * hours * place.chips
    mesh = mesh_shape(experiment.mesh, devices)
    return Plan(changes, mesh, devices, compiled, fits, model_flops, prediction, rate, hours, cost)


def mesh_shape(mesh: MeshConfig, devices: int) -> dict[str, int]:
    """Axis -> devices, with what remains for `data`."""
    sizes = dataclasses.asdict(mesh)
    others = mesh.fsdp * mesh.tensor * mesh.sequence
    return sizes | {"data": devices // others if mesh.data == -1 else mesh.data}


def remedies(experiment: Experiment, devices: int) -> Iterator[tuple[str, Experiment]]:
    """Settings that hold less: parameters sharded, a batch in parts, recomputation, all three; (flags, experiment)."""
    training, shape = experiment.training, mesh_shape(experiment.mesh, devices)
    across = shape["data"] * shape["fsdp"]
    changes: dict[str, tuple[str, dict]] = {}
    sharded = shape | {"data": 1, "fsdp": across}
    if shape["data"] > 1 and _divides(experiment.model, sharded, experiment.problem().batch["ids"].shape[-1]):
        changes[f"--mesh.data 1 --mesh.fsdp {across}"] = "mesh", {"data": 1, "fsdp": across}
    parts = [n for n in (2, 4, 8, 16, 32) if n > training.microbatches and training.batch_size % (n * across) == 0]
    for count in dict.fromkeys((*parts[:2], *parts[-1:])):
        changes[f"--training.microbatches {count}"] = "training", {"microbatches": count}
    if experiment.model.remat != "full":
        changes["--model.remat full"] = "model", {"remat": "full"}
    for flags, (part, fields) in changes.items():
        yield flags, _with(experiment, part, **fields)
    most = {part: (flags, fields) for flags, (part, fields) in changes.items()}  # of the microbatches, the most
    if len(most) > 1:
        every = experiment
        for part, (_, fields) in most.items():
            every = _with(every, part, **fields)
        yield " ".join(flags for flags, _ in most.values()), every


def sweep_meshes(experiment: Experiment, devices: int) -> list[tuple[str, Experiment]]:
    """Every mesh of `devices` that divides the model: its heads by tensor x sequence, its rows by data x fsdp."""
    model, rows = experiment.model, experiment.training.batch_size // experiment.training.microbatches
    length = experiment.problem().batch["ids"].shape[-1]
    found = []
    for fsdp, tensor, sequence in itertools.product(_divisors(devices), repeat=3):
        others = fsdp * tensor * sequence
        sizes = {"data": devices // others, "fsdp": fsdp, "tensor": tensor, "sequence": sequence}
        if devices % others == 0 and rows % (sizes["data"] * fsdp) == 0 and _divides(model, sizes, length):
            flags = " ".join(f"--mesh.{axis} {size}" for axis, size in sizes.items() if size > 1)
            found.append((flags, _with(experiment, "mesh", **sizes)))
    if not found:
        raise InputError(
            f"--sweep: no mesh of {devices} devices divides {rows} rows a microbatch and "
            f"{model.num_attention_heads} heads; change training.batch_size or training.microbatches"
        )
    return found


def _divides(model: RoFormerConfig, sizes: dict[str, int], length: int) -> bool:
    """Would a run take this mesh?"""
    try:
        model.check_mesh(sizes, length)
    except InputError:
        return False
    return True


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _with(experiment: Experiment, part: str, **fields) -> Experiment:
    return dataclasses.replace(experiment, **{part: dataclasses.replace(getattr(experiment, part), **fields)})
