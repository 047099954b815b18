"""One run on several processes: the hosts of a TPU pod, the nodes of a cluster, or processes of one machine."""

import argparse
import json
import os
import sys
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from roformer_jax.errors import InputError, Interrupted

FLAGS = """several processes, each started with the same command:
  --distributed             on TPU pods, Slurm, Open MPI and GKE: who takes part is asked of the cluster
  --coordinator HOST:PORT --processes N --process-id I
                            anywhere else: where process 0 listens, how many there are, and which this is, from 0"""

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as dead, and the others end


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
                jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
            except ValueError as error:
                raise InputError(f"--distributed: no cluster found ({error})\n{FLAGS}") from error
        elif self.coordinator is not None:
            jax.distributed.initialize(
                self.coordinator, self.processes, self.process_id, heartbeat_timeout_seconds=HEARTBEAT
            )


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


def agreed(answer: bool, *, by_all: bool = False) -> bool:
    """The answer of the first process, in all of them; with `by_all`, whether all answer yes. All ask together."""
    if jax.process_count() == 1:
        return answer
    answers = multihost_utils.process_allgather(np.array(answer))
    return bool(np.all(answers) if by_all else answers[0])


def check_same_everywhere(facts: Mapping[str, Any]) -> None:
    """Compare what every process found with what the first found; all ask together.

    Args:
      facts: JSON values by name.

    Raises:
      InputError: a process differs; every process raises it, and names the first fact that differs.
    """
    if jax.process_count() == 1:
        return
    names = sorted(facts)
    for what, values in ((["set of fields"], [names]), (names, [facts[name] for name in names])):
        digests = [zlib.crc32(json.dumps(value, sort_keys=True).encode()) for value in values]
        found = multihost_utils.process_allgather(np.array(digests, np.uint32))
        for process, field in np.argwhere(found != found[0])[:1]:
            raise InputError(
                f"process {process} has another {what[field]} than process 0: "
                "all processes of a run need the same version, config and data"
            )


def leave(code: int) -> None:
    """The end of a process that may have taken part in a run of several.

    All end together when all ended well or were stopped; one that failed ends at once, for the others may wait for it
    in the middle of a computation. They notice within `HEARTBEAT` seconds.
    """
    if not jax.distributed.is_initialized():
        return
    if code in (0, Interrupted.exit_code):
        jax.distributed.shutdown()
        return
    if sys.exc_info()[0] is not None:  # nobody comes to print it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def on_first_process(write: Callable[[], None]) -> None:
    """Use what all processes share on the first of them alone; all return when that is done.

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
        raise InputError("the first process could not use the folder of the run; its message says why")
