"""What a compiled program sends between devices: its collectives, their bytes, and how long a ring takes for them."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from roformer_jax.planning.hlo import Program, Visit, array_bytes, executed

# Kind -> bytes that a device sends in a ring of n, as a multiple of the bytes that it puts in.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


class Traffic(NamedTuple):
    """Collectives of one kind, per device and update.

    Attributes:
      count: how often one is executed.
      sent: bytes that a device sends.
    """

    count: int
    sent: float


def collectives(program: Program, devices: int) -> Mapping[str, Traffic]:
    """Kind -> its traffic; a collective in a loop counts as often as the loop turns.

    A ring (bandwidth-optimal: Patarasuk & Yuan 2009) of n devices sends, of the bytes that each puts in, 2 (n - 1) / n
    in an all-reduce, n - 1 in an all-gather, (n - 1) / n in a reduce-scatter or an all-to-all; a permutation sends all.
    """
    once: dict[str, tuple[str, Traffic]] = {}
    for visit in executed(program):
        kind = _kind(visit)
        group = group_size(visit.instruction.attributes, devices)
        if kind is not None and group > 1:
            put_in = sum(array_bytes(program.shapes[name]) for name in visit.instruction.operands)
            once[_channel(visit)] = kind, Traffic(visit.times, visit.times * put_in * SENT[kind](group))
    found: dict[str, Traffic] = {}
    for kind, traffic in once.values():
        before = found.get(kind, Traffic(0, 0.0))
        found[kind] = Traffic(before.count + traffic.count, before.sent + traffic.sent)
    return found


def group_size(attributes: str, devices: int) -> int:
    """Devices that take part in each instance of a collective, in any of the three ways XLA writes it."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'([^']+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(listed[1].split(","))
    return devices


def _kind(visit: Visit) -> str | None:
    """Which collective an instruction begins, if it does; an asynchronous one counts where it starts."""
    kind = visit.instruction.opcode.removesuffix("-start")
    if kind == "all-reduce" and visit.computation.startswith("all-reduce-scatter"):  # the TPU compiler's, in a fusion
        return "reduce-scatter"
    return kind if kind in SENT else None


def _channel(visit: Visit) -> str:
    """What names a collective: the TPU compiler writes it in every fusion that it runs beside."""
    channel = re.search(r"channel_id=(\d+)", visit.instruction.attributes)
    return channel[0] if channel else visit.instruction.name
