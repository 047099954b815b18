"""FLOPs of the matrix products of a traced program, recomputation included."""

import math
from collections.abc import Iterator

from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(program: ClosedJaxpr | Jaxpr, around: int = 1) -> float:
    """FLOPs of the matrix products of a program over all devices, those of a loop as often as it turns.

    A loop whose turns depend on the data is taken to turn as often as the loop around it (`around`), as in `hlo`; of a
    choice the most costly branch counts, of a Pallas kernel every block of its grid.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    return float(sum(_equation_flops(equation, around) for equation in jaxpr.eqns))


def _equation_flops(equation, around: int) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    turns = {"scan": params.get("length"), "while": around}.get(name)
    inner = [matmul_flops(jaxpr, turns or around) for jaxpr in _inside(params)]
    if name == "cond":
        return max(inner)
    return float(sum(inner)) * (turns or _instances(name, params))


def _instances(name: str, params: dict) -> int:
    """How often the content of an equation that is no loop runs, over all devices."""
    match name:
        case "shard_map":
            return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
        case "pallas_call":
            return math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    return 1


def _inside(params: dict) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item
