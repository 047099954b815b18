"""Looking into traced programs."""

from collections.abc import Iterator

import jax


def equations(jaxpr) -> Iterator:
    """Every equation, also those inside scans, jits and custom derivatives."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(inner)


def count(primitive: str, jaxpr) -> int:
    """How many equations apply `primitive`."""
    return sum(equation.primitive.name == primitive for equation in equations(jaxpr))
