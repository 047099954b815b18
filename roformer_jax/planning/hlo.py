"""Reads the text of a compiled program: its instructions, how often each is executed, and the bytes of their arrays.

XLA's own cost analysis takes the body of a loop once, and a model is a loop over its layers.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

HEADER = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")
OPCODE = re.compile(r"(?:^|\s)(?P<opcode>[a-z][a-z0-9\-]*)\(")
ARRAY = re.compile(r"\b(?P<kind>pred|[a-z]+\d+[a-z0-9]*)\[(?P<dims>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?")
CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
LOCAL_MEMORY = re.compile(r"S\([1-9]\d*\)")


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: unique in the program.
      shape: of the result, as written.
      opcode: e.g. "all-reduce".
      arguments: what stands in its parentheses.
      attributes: the rest of the line.
      is_root: whether it is the result of its computation.
    """

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the instructions whose results it takes."""
        return re.findall(r"%([\w.\-]+)", self.arguments)

    def called(self) -> tuple[str, ...]:
        """Computations that run in its place: a loop's body, a fusion's or a call's content."""
        return tuple(CALLED.findall(self.attributes))


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """A compiled module.

    Attributes:
      computations: name -> its instructions by name, in order.
      entry: the computation that is run.
      shapes: name of an instruction -> shape of its result.
    """

    computations: dict[str, Computation]
    entry: str
    shapes: dict[str, str]


class Visit(NamedTuple):
    """An instruction and how often the program executes it; `fused` within a fusion, whose arrays stay on the chip."""

    instruction: Instruction
    computation: str
    times: int
    fused: bool


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` shows.

    Raises:
      ValueError: there is no entry computation in the text.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations.setdefault(header["name"], {})
            entry = header["name"] if header["entry"] else entry
        elif found := INSTRUCTION.match(line):
            instruction = _instruction(found["name"], found["rest"], "ROOT " in line[:12])
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY computation: it is not a compiled program")
    shapes = {name: line.shape for lines in computations.values() for name, line in lines.items()}
    return Program(computations, entry, shapes)


def executed(program: Program) -> Iterator[Visit]:
    """Every instruction of the program with how often it runs; of a conditional, all branches once.

    A loop whose turns depend on the data is taken to turn as often as the loop around it, once if there is none: so
    blockwise attention, whose blocks of queries walk over the blocks of keys they see, counts as if they saw all.
    """
    yield from _visits(program, program.entry, 1, 1, False)


def array_bytes(shape: str, *, in_memory: bool = False) -> int:
    """Bytes of an array, or of all arrays of a tuple; `in_memory` leaves out those kept in a chip's local memory."""
    return sum(
        math.prod(int(size) for size in found["dims"].split(",") if size) * _item_bytes(found["kind"])
        for found in ARRAY.finditer(shape)
        if not (in_memory and LOCAL_MEMORY.search(found["layout"] or ""))
    )


def _item_bytes(kind: str) -> int:
    """Bytes of an element: bits, rounded up, from the digits of its type (f32, bf16, s8, f8e4m3fn, u4)."""
    return 1 if kind == "pred" else -(-int(re.findall(r"\d+", kind)[0]) // 8)


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    opcode = OPCODE.search(rest)
    if opcode is None:
        raise ValueError(f"no operation in the line of %{name}: {rest[:200]}")
    end = _closing(rest, opcode.end())
    return Instruction(name, rest[: opcode.start()], opcode["opcode"], rest[opcode.end() : end], rest[end:], is_root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis ends that was opened before `start`."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def _visits(program: Program, name: str, times: int, around: int, fused: bool) -> Iterator[Visit]:
    for instruction in program.computations[name].values():
        yield Visit(instruction, name, times, fused)
        if instruction.opcode == "while":
            turns = _turns(program, instruction) or around
            yield from _visits(program, instruction.called()[0], times * turns, turns, fused)
        elif instruction.opcode in ("fusion", "call", "async-start"):
            within = fused or instruction.opcode == "fusion"
            yield from _visits(program, instruction.called()[0], times, around, within)
        elif instruction.opcode == "conditional":
            for branch in re.findall(r"%([\w.\-]+)", instruction.attributes.split("metadata=")[0]):
                yield from _visits(program, branch, times, around, fused)


def _turns(program: Program, loop: Instruction) -> int | None:
    """Turns of a loop: as the compiler notes them, or the constant that the condition counts up to from zero."""
    if noted := TRIPS.search(loop.attributes):
        return int(noted[1])
    condition = program.computations[re.search(r"condition=%?([\w.\-]+)", loop.attributes)[1]]
    root = next(line for line in condition.values() if line.is_root)
    limits = [condition[name] for name in root.operands if condition[name].opcode == "constant"]
    if root.opcode != "compare" or "direction=LT" not in root.attributes or len(limits) != 1:
        return None
    return int(limits[0].arguments)
