"""Types are asked for, and nothing else."""

import math
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.errors import InputError
from roformer_jax.fields import check_types

SETTINGS = settings(deadline=None, max_examples=50)
NUMBERS = st.floats(allow_nan=False)
ITEM = make_dataclass("Item", [])
VALUES = {  # annotation -> what fits, what does not, and how that is said
    int: (st.integers(), st.floats() | st.booleans() | st.text() | st.none(), "a whole number"),
    float: (NUMBERS | st.integers(), st.just(math.nan) | st.booleans() | st.text() | st.none(), "a number"),
    bool: (st.booleans(), st.integers() | st.text() | st.none(), "True or False"),
    str: (st.text(min_size=1), st.just("") | st.binary() | st.none() | st.integers(), "a text"),
    Literal["a", "b"]: (st.sampled_from(["a", "b"]), st.sampled_from(["c", "", 1, None, ["a"]]), "one of a, b"),
    int | None: (st.integers() | st.none(), st.floats() | st.booleans() | st.text(), "a whole number or None"),
    tuple[str, ...]: (
        st.lists(st.text(min_size=1)).map(tuple),
        st.text() | st.lists(st.text()) | st.tuples(st.just("")) | st.tuples(st.text(), st.integers()),
        "a tuple, each item a text",
    ),
    ITEM: (st.builds(ITEM), st.none() | st.just({}), "of type Item"),
}


def config_of(hint: Any, value: Any) -> Any:
    return make_dataclass("Config", [("name", hint)])(value)


@pytest.mark.parametrize("hint", VALUES, ids=str)
def test_a_value_of_the_annotated_type_passes_and_no_other(hint):
    fitting, others, in_words = VALUES[hint]

    @SETTINGS
    @given(fitting)
    def passes(value):
        check_types(config_of(hint, value))

    @SETTINGS
    @given(others)
    def is_refused(value):
        with pytest.raises(InputError) as refusal:
            check_types(config_of(hint, value), "model.")
        assert str(refusal.value) == f"model.name = {value!r} must be {in_words}"

    passes()
    is_refused()


def test_a_text_that_is_not_set_is_no_text_and_passes():
    @dataclass
    class Config:
        path: str = ""

    check_types(Config())
    check_types(Config(path="here"))
