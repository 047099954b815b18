"""The chips whose speed and memory are known: what they do at best, for MFU and for the roofline of `plan`."""

from typing import NamedTuple

from roformer_jax.models.config import ComputeType


class Chip(NamedTuple):
    """One accelerator as JAX sees it; all figures are the maker's, dense (no sparsity).

    TPUs: cloud.google.com/tpu/docs, pages of v4, v5e, v5p, v6e; the interconnect of one torus axis, both ways, from
    jax-ml.github.io/scaling-book/tpus. GPUs: NVIDIA's data sheets of A100 SXM and H100 SXM; NVLink, one way.

    Attributes:
      name: as in a topology.
      kinds: JAX's `device_kind`s.
      bfloat16: FLOP/s of matrix products of bfloat16.
      float32: FLOP/s of matrix products of float32 at JAX's default precision (bfloat16 on a TPU, TF32 on a GPU).
      memory: bytes.
      bandwidth: bytes/s of the memory.
      interconnect: bytes/s that one chip sends into a ring of its neighbours.
    """

    name: str
    kinds: tuple[str, ...]
    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    interconnect: float

    def peak(self, dtype: ComputeType) -> float:
        """FLOP/s of matrix products of this type."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32

    def part(self, share: float) -> "Chip":
        """The figures of a device that is this share of a chip: the compiler sees a v4 as two."""
        scaled = (self.bfloat16, self.float32, self.memory, self.bandwidth, self.interconnect)
        return Chip(self.name, self.kinds, *(figure * share for figure in scaled))


GIB = 2**30
CHIPS = (
    Chip("v4", ("TPU v4",), 275e12, 275e12, 32 * GIB, 1.228e12, 9e10),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 197e12, 16 * GIB, 0.819e12, 9e10),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 459e12, 95 * GIB, 2.765e12, 1.8e11),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 918e12, 32 * GIB, 1.64e12, 1.8e11),
    Chip("a100-40", ("NVIDIA A100-SXM4-40GB",), 312e12, 156e12, 40 * GIB, 1.555e12, 3e11),
    Chip("a100", ("NVIDIA A100-SXM4-80GB",), 312e12, 156e12, 80 * GIB, 2.039e12, 3e11),
    Chip("h100", ("NVIDIA H100 80GB HBM3",), 989.4e12, 494.7e12, 80 * GIB, 3.35e12, 4.5e11),
)


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None for one whose figures are not known (any CPU)."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)
