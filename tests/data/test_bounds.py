import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.data.bounds import LARGEST, joined, ranges_of, violation

BOUND = 10
INTEGERS = st.lists(st.integers(-3, BOUND + 2), min_size=1, max_size=6)
NUMBERS = st.lists(st.floats(width=32), min_size=1, max_size=6)


def row_of(integers, numbers):
    return {"ids": np.array(integers, np.int32), "scores": np.array(numbers, np.float32)}


@settings(deadline=None)
@given(rows=st.lists(st.tuples(INTEGERS, NUMBERS), min_size=1, max_size=4))
def test_exactly_the_rows_with_a_value_out_of_bounds_are_refused_and_it_is_named(rows):
    bounds = {"ids": BOUND, "scores": None}
    accepted = []
    for integers, numbers in rows:
        problem = violation(ranges_of(row_of(integers, numbers)), bounds)
        outside = [i for i in integers if i < 0 or i >= BOUND]
        if outside:
            assert problem in [f"ids holds {i}, allowed are the integers 0 to {BOUND - 1}" for i in outside]
        elif not all(abs(number) <= LARGEST for number in numbers):
            assert problem.startswith("scores holds") and problem.endswith(
                "allowed are finite numbers from -1e+09 to 1e+09"
            )
        else:
            assert problem is None
            accepted.append(row_of(integers, numbers))
    if accepted:
        ranges = ranges_of(accepted[0])
        for row in accepted[1:]:
            ranges = joined(ranges, ranges_of(row))
        for name, found in ranges.items():
            values = np.concatenate([row[name] for row in accepted])
            assert found == [values.min(), values.max()]
        assert violation(json.loads(json.dumps(ranges)), bounds) is None


@pytest.mark.parametrize("labels", [[0.0, 1.0], [0.5, 1.5]])
def test_floating_point_labels_are_no_classes(labels):
    problem = violation(ranges_of({"labels": np.array(labels, np.float32)}), {"labels": 2})
    assert problem == f"labels holds {labels[0]}, allowed are the integers 0 to 1"


def test_every_field_needs_a_bound_and_every_bound_a_field():
    ranges = ranges_of({"ids": np.array([1]), "labels": np.array([1])})
    for bounds in ({"ids": 2}, {"ids": 2, "labels": 2, "starts": 2}):
        assert violation(ranges, bounds) == f"the fields are ['ids', 'labels'], expected are {sorted(bounds)}"
