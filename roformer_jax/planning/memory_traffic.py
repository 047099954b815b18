"""Bytes that a compiled program reads and writes, its loops counted as often as they turn."""

from typing import NamedTuple

from roformer_jax.planning.hlo import Computation, Instruction, Program, array_bytes, executed

# No data moves here: names, views, and control; what runs inside a loop or call is counted there.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "partition-id", "replica-id", "opt-barrier", "async-start", "async-done", "async-update", "iota", "domain",
}  # fmt: skip
VIEWS = ("AllocateBuffer", "ConcatBitcast")  # custom calls that only name a place
SLICES = {"dynamic-slice", "slice", "gather"}  # they read only what they return


class Bytes(NamedTuple):
    """Bytes per device and update.

    Attributes:
      accessed: read and written by all operations, wherever the arrays lie; XLA's measure.
      in_memory: those of arrays in the device's main memory (on a TPU the others lie in its vector memory).
    """

    accessed: float
    in_memory: float


def bytes_moved(program: Program) -> Bytes:
    """What the operations outside fusions read and write, every turn of a loop counted."""
    accessed = in_memory = 0.0
    for visit in executed(program):
        line = visit.instruction
        if visit.fused or line.opcode in FREE or line.opcode.endswith("-done"):
            continue
        accessed += visit.times * _moved(program, line, in_memory=False)
        in_memory += visit.times * _moved(program, line, in_memory=True)
    return Bytes(accessed, in_memory)


def _moved(program: Program, line: Instruction, *, in_memory: bool) -> int:
    """Bytes of an operation's operands and results, of slices only what they take."""

    def size(shape: str) -> int:
        return array_bytes(shape, in_memory=in_memory)

    shapes = [program.shapes[name] for name in line.operands]
    match line.opcode:
        case "fusion":
            inside = program.computations[line.called()[0]]
            return _read_by_fusion(program, inside, in_memory=in_memory) + _written(program, inside, in_memory)
        case "custom-call" if any(name in line.attributes for name in VIEWS):
            return 0
        case "dynamic-slice" | "slice" | "gather":
            return 2 * size(line.shape)
        case "dynamic-update-slice":
            return 2 * size(shapes[1])
        case "copy-start":  # its result names the operand
            return size(line.shape)
        case "slice-start":
            part = array_bytes(line.shape) - array_bytes(shapes[0])
            return size(line.shape) - size(shapes[0]) + (part if size(shapes[0]) else 0)
    if line.opcode.endswith("-start"):
        return 2 * sum(map(size, shapes))
    return size(line.shape) + sum(map(size, shapes))


def _read_by_fusion(program: Program, inside: Computation, *, in_memory: bool) -> int:
    """A parameter that is only sliced counts with its slices, one that is updated in place not at all."""
    parameters = [line for line in inside.values() if line.opcode == "parameter"]
    wholes = [array_bytes(line.shape, in_memory=in_memory) for line in parameters]
    return sum(min(whole, _taken(program, inside, line)) for whole, line in zip(wholes, parameters, strict=True))


def _taken(program: Program, inside: Computation, array: Instruction) -> int:
    """Bytes that the operations of a fusion take of one of its arrays."""
    taken = 0
    for user in inside.values():
        for place, name in enumerate(user.operands):
            if name != array.name:
                continue
            if user.opcode in SLICES and place == 0:
                taken += array_bytes(user.shape)
            elif user.opcode == "bitcast":
                taken += _taken(program, inside, user)
            elif user.opcode == "fusion":
                called = program.computations[user.called()[0]]
                taken += _taken(program, called, _parameter(called, place))
            elif user.opcode != "dynamic-update-slice" or place != 0:
                taken += array_bytes(array.shape)
    return taken


def _written(program: Program, inside: Computation, in_memory: bool) -> int:
    """Bytes of a fusion's results; of one that is updated in place, the update."""
    root = next(line for line in inside.values() if line.is_root)
    results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    total = 0
    for line in results:
        while line.opcode == "bitcast":
            line = inside[line.operands[0]]
        if line.opcode == "dynamic-update-slice" and array_bytes(line.shape, in_memory=in_memory):
            total += array_bytes(inside[line.operands[1]].shape)
        elif line.opcode == "fusion":
            total += _written(program, program.computations[line.called()[0]], in_memory)
        else:
            total += array_bytes(line.shape, in_memory=in_memory)
    return total


def _parameter(inside: Computation, number: int) -> Instruction:
    return next(line for line in inside.values() if line.opcode == "parameter" and line.arguments == str(number))
