"""One run on several processes: the hosts of a TPU pod, the nodes of a cluster, or processes of one machine."""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from roformer_jax.errors import InputError

FLAGS = """several processes, each started with the same command:
  --distributed             on TPU pods, Slurm, Open MPI and GKE: who takes part is asked of the cluster
  --coordinator HOST:PORT --processes N --process-id I
                            anywhere else: where process 0 listens, how many there are, and which this is, from 0"""


class _Parser(argparse.ArgumentParser):
    """Raises what it does not understand."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}\n{FLAGS}")


class Processes(NamedTuple):
    """Who takes part in the run, as the command line says."""

    distributed: bool
    """Whether to ask the cluster."""
    coordinator: str | None
    """HOST:PORT at which process 0 listens."""
    processes: int | None
    """How many there are."""
    process_id: int | None
    """Which this is."""

    def connect(self) -> None:
        """Join the other processes, if there are some; to be called before JAX is asked for any device.

        Raises:
          InputError: no cluster found.
        """
        if self.distributed:
            try:
                jax.distributed.initialize()
            except ValueError as error:
                raise InputError(f"--distributed: no cluster found ({error})\n{FLAGS}") from error
        elif self.coordinator is not None:
            jax.distributed.initialize(self.coordinator, self.processes, self.process_id)


def read_flags(arguments: Sequence[str]) -> tuple[Processes, list[str]]:
    """What a command line says of processes, and its other arguments.

    Raises:
      InputError: an incomplete or impossible description.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process-id", type=int)
    flags, others = parser.parse_known_args(list(arguments))
    found = Processes(**vars(flags))
    _check(found)
    return found, others


def _check(flags: Processes) -> None:
    """Refuse what could only wait in vain for the other processes."""
    coordinator, processes, process_id = flags[1:]
    given = [value is not None for value in flags[1:]]
    if flags.distributed and any(given):
        raise InputError(f"--distributed finds the processes itself; leave out the other flags\n{FLAGS}")
    if any(given) and not all(given):
        raise InputError(f"--coordinator, --processes and --process-id are given together\n{FLAGS}")
    if not any(given):
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--coordinator {coordinator} is not HOST:PORT")
    if not 0 <= process_id < processes:
        raise InputError(f"--process-id {process_id} must lie in [0, {processes}), as --processes {processes} says")


def on_first_process(write: Callable[[], None]) -> None:
    """Write what all processes share on the first of them alone; all return when it is written.

    Raises:
      Exception: in the first process, what `write` raised; in the others an InputError that says that it did.
    """
    if jax.process_count() == 1:
        write()
        return
    error = None
    if jax.process_index() == 0:
        try:
            write()
        except Exception as failure:  # whatever it is: the others wait for word of it
            error = failure
    failed = bool(multihost_utils.broadcast_one_to_all(np.array(error is not None)))
    if error is not None:
        raise error
    if failed:
        raise InputError("the first process could not write the folder of the run; its message says why")
