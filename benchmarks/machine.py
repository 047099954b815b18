"""What a benchmark says of the machine it ran on, and how fast that multiplies matrices."""

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

SQUARE = 2048  # side of the large matrices


def machine() -> dict[str, str | int]:
    """Processor, cores this process may use, device, versions and date (UTC)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(),
        "cores": cores,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": importlib.metadata.version("flax"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def processor() -> str:
    """The processor's name, with the instructions that matter here."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in cpuinfo.read_text().split("\n\n")[0].splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in facts.get("flags", "").split()]
    return " ".join([facts.get("model name", platform.machine()), *known])


def timed(call: Callable[[], object]) -> float:
    """Seconds until the call's arrays are ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


class GemmRate:
    """The rate of matrix products alone, in this process: the limit of everything else.

    Args:
        layers: (rows, inputs, outputs, count) of every dense layer of a step; forward and both gradients are timed.
        dtype: of the matrices.
    """

    def __init__(self, layers: Sequence[tuple[int, int, int, int]], dtype: str):
        @jax.jit
        def dense(x, kernel, cotangent):
            y, pullback = jax.vjp(jnp.matmul, x, kernel)
            return y, pullback(cotangent)

        self._calls = []
        self._seconds: dict[int, list[float]] = {}
        for rows, inputs, outputs, count in layers:
            shapes = (rows, inputs), (inputs, outputs), (rows, outputs)
            self._add(dense, shapes, dtype, count, 6 * rows * inputs * outputs)
        self._add(jax.jit(jnp.matmul), ((SQUARE, SQUARE),) * 2, dtype, 0, 2 * SQUARE**3)

    def _add(self, function, shapes, dtype: str, count: int, flops: int) -> None:
        arrays = [jax.random.normal(jax.random.key(i), shape, jnp.dtype(dtype)) for i, shape in enumerate(shapes)]
        call = lambda: function(*arrays)  # noqa: E731
        timed(call)
        self._calls.append((call, count, flops))

    def turn(self) -> None:
        """Times every product once."""
        for index, (call, _, _) in enumerate(self._calls):
            self._seconds.setdefault(index, []).append(timed(call))

    def rates(self) -> dict[str, float]:
        """FLOP/s of the step's shapes, in their proportions, and of the large square ones: medians of the turns."""
        medians = {index: statistics.median(seconds) for index, seconds in self._seconds.items()}
        seconds = sum(count * medians[i] for i, (_, count, _) in enumerate(self._calls))
        flops = sum(count * flops for _, count, flops in self._calls)
        square = len(self._calls) - 1
        return {"step_shapes": flops / seconds, "square": self._calls[square][2] / medians[square]}
