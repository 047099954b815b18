"""What the fields of a row may hold: checked for every row that is written, and for a cache whenever it is opened.

No program complains later: an embedding takes an id outside its table for another one, and a loss gives NaN, or a
finite and wrong gradient, for a label outside its classes.
"""

from collections.abc import Mapping

import numpy as np

Bounds = Mapping[str, int | None]
"""Of every field: its values are integers in [0, bound); None for numbers from -`LARGEST` to `LARGEST`."""
LARGEST = 1e9  # the squares of a billion such numbers sum to a finite float32, which ends at 3.4e38
Ranges = dict[str, list[int | float]]
"""Of every field: the least and the greatest value it holds, as JSON keeps them."""


def ranges_of(row: Mapping[str, np.ndarray]) -> Ranges:
    """The ranges of the fields of one row; NaN where a field holds one."""
    return {name: [values.min().item(), values.max().item()] for name, values in row.items()}


def joined(first: Ranges, second: Ranges) -> Ranges:
    """The ranges of rows with these two ranges, of the same fields."""
    return {name: [min(least, second[name][0]), max(most, second[name][1])] for name, (least, most) in first.items()}


def violation(ranges: Ranges, bounds: Bounds) -> str | None:
    """Says which field holds what it may not, and what it may; None where all is well."""
    if ranges.keys() != bounds.keys():
        return f"the fields are {sorted(ranges)}, expected are {sorted(bounds)}"
    for name, bound in bounds.items():
        for value in ranges[name]:
            if bound is None and not abs(value) <= LARGEST:
                return f"{name} holds {value}, allowed are finite numbers from -{LARGEST:g} to {LARGEST:g}"
            if bound is not None and not (isinstance(value, int) and 0 <= value < bound):
                return f"{name} holds {value}, allowed are the integers 0 to {bound - 1}"
    return None
