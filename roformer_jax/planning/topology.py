"""Devices that need not be there: names of topologies, and the compilers that know them."""

import importlib.util
import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import topologies

from roformer_jax.errors import InputError
from roformer_jax.hardware import CHIPS, Chip

NAME = re.compile(r"(?P<family>[a-z0-9-]+):(?P<size>\d+(x\d+)*)")
TPUS = ("v4", "v5e", "v5p", "v6e")
GPUS = {"h100": "h100.txtpb", "a100": "a100.txtpb", "a100-40": "a100.txtpb"}
GPUS_OF_A_NODE = 8  # those that NVLink joins; nothing is known here of the network between nodes
EXAMPLES = "v5e:2x4, v5e:16x16, v6e:4x4, v4:2x2x1, v5p:2x2x4, h100:8, a100:8 or a100-40:8"


class Slice(NamedTuple):
    """What a topology is.

    Attributes:
      name: as given.
      devices: as JAX sees them.
      chip: one device's figures.
      chips: what is paid for.
    """

    name: str
    devices: list[jax.Device]
    chip: Chip
    chips: int


def open_slice(name: str) -> Slice:
    """The devices of a topology such as v5e:4x4.

    Raises:
      InputError: a name of no known topology, or a compiler that is not installed.
    """
    parts = NAME.fullmatch(name)
    family = parts["family"] if parts else ""
    if family not in (*TPUS, *GPUS):
        raise InputError(f"--topology {name}: not a topology that is known here; they are written {EXAMPLES}")
    chips = math.prod(int(size) for size in parts["size"].split("x"))
    chip = next(chip for chip in CHIPS if chip.name == family)
    devices = _tpus(name) if family in TPUS else _gpus(name, family, chips)
    return Slice(name, devices, chip.part(chips / len(devices)), chips)


def _tpus(name: str) -> list[jax.Device]:
    if "TPU_LIBRARY_PATH" not in os.environ:
        _need("libtpu", "pip install --no-deps libtpu")
    try:
        return topologies.get_topology_desc(name, "tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"--topology {name}: {str(error).splitlines()[0]}; others are {EXAMPLES}") from error


def _gpus(name: str, family: str, count: int) -> list[jax.Device]:
    _need("jax_cuda12_plugin", f"pip install --no-deps jax-cuda12-plugin=={jax.__version__} and jax-cuda12-pjrt of it")
    if not 1 <= count <= GPUS_OF_A_NODE:
        raise InputError(f"--topology {name}: plan knows the GPUs of one node, 1 to {GPUS_OF_A_NODE}")
    description = Path(__file__).with_name(GPUS[family]).read_text(encoding="utf-8")
    return topologies.get_topology_desc(family, "cuda", target_config=description, topology=f"1x1x{count}").devices


def _need(module: str, command: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"plan needs the compiler of that device, {module}, which is not installed: {command} "
            "(no accelerator and no driver is needed; `make test` of the repository puts it into .venv/aot)"
        )
