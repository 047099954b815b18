"""How long an update takes at best, from what the compiler says of it and what the chip can do."""

from typing import NamedTuple

from roformer_jax.hardware import Chip
from roformer_jax.models.config import ComputeType
from roformer_jax.planning.compile import Compiled

FORMULA = """step time = max(compute, memory) + communication
  compute        FLOPs of the program's matrix products / the chip's peak for {dtype}
  memory         bytes read from and written to the chip's main memory / its bandwidth
  communication  bytes sent in rings / the bandwidth of a chip's links along one axis
MFU = model FLOPs / (step time x devices x peak). A prediction, and a hopeful one: matrix products below the peak rate,
latencies, evaluations, checkpoints and waiting for data are left out. Arithmetic and memory traffic overlap on every
chip, so the slower counts; communication is added, as the sums of gradients have little to hide behind."""


class Prediction(NamedTuple):
    """The roofline of an update.

    Attributes:
      compute: seconds of matrix products at the peak rate.
      memory: seconds of main-memory traffic at full bandwidth.
      communication: seconds of traffic between devices.
      step: seconds of the update.
      mfu: model FLOPs utilisation.
      communication_share: of the step.
    """

    compute: float
    memory: float
    communication: float
    step: float
    mfu: float
    communication_share: float


def predict(compiled: Compiled, chip: Chip, dtype: ComputeType, model_flops: float) -> Prediction:
    """The step time by `FORMULA`; `model_flops` are those of one device."""
    peak = chip.peak(dtype)
    compute = compiled.flops / peak
    memory = compiled.moved.in_memory / chip.bandwidth
    communication = sum(traffic.sent for traffic in compiled.traffic.values()) / chip.interconnect
    step = max(compute, memory) + communication
    return Prediction(compute, memory, communication, step, model_flops / (step * peak), communication / step)
