"""What XLA and Mosaic make of the rotation for v5e and v6e, with no TPU."""

import math
import re

import pytest

DTYPE_BYTES = {"bfloat16": 2, "float32": 4}
QUERIES = KEYS = (4, 1024, 16, 128)
LAYOUTS = ("half", "interleaved", "interleaved_to_half")


@pytest.fixture(scope="module", params=["v5e", "v6e"])
def programs(request, programs_of):
    return programs_of(request.param)


def entry(program):
    return program["hlo"][program["hlo"].index("ENTRY") :]


@pytest.mark.parametrize("dtype", DTYPE_BYTES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kernel_moves_little_more_than_queries_and_keys(programs, dtype, layout):
    program = programs[f"kernel {dtype} {layout}"]
    floor = 2 * DTYPE_BYTES[dtype] * (math.prod(QUERIES) + math.prod(KEYS))  # every channel read once, written once
    assert floor <= program["bytes"] <= 1.3 * floor


@pytest.mark.parametrize("dtype", DTYPE_BYTES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_queries_and_keys_turn_in_one_kernel_and_in_place(programs, dtype, layout):
    hlo = programs[f"kernel {dtype} {layout}"]["hlo"]
    assert hlo.count('custom_call_target="tpu_custom_call"') == 1
    assert re.search(r"input_output_alias=\{ \{0\}: \(0, .*\{1\}: \(1, ", hlo)


@pytest.mark.parametrize(("layout", "megabytes"), [("half", 126), ("interleaved", 139), ("interleaved_to_half", 210)])
def test_the_default_form_moves_no_more_than_the_best_known_form(programs, layout, megabytes):
    """The least, over the forms that JAX libraries write, of bfloat16 [4, 1024, 16, 128] compiled for v6e."""
    assert programs[f"alone {layout}"]["bytes"] <= megabytes * 1e6


def test_the_rotation_is_fused_into_the_projection_before_it(programs):
    bare, rotated = (programs[f"projection {name}"]["bytes"] for name in ("bare", "rotated"))
    one_pass = 2 * 2 * math.prod(QUERIES)  # bfloat16, read and written
    assert rotated - bare < one_pass


def test_n_dimensional_positions_are_not_multiplied_as_a_matrix(programs):
    """A matrix product would round positions over 256 to bfloat16."""
    hlo = programs["grid"]["hlo"]
    assert "cosine(" in hlo
    assert "convolution(" not in hlo
    assert " dot(" not in hlo


@pytest.mark.parametrize("name", ["text", "grid"])
def test_angles_are_float32(programs, name):
    hlo = programs[name]["hlo"]
    assert set(re.findall(r"(\w+)\[[\d,]*\]\S* (?:cosine|sine)\(", hlo)) == {"f32"}
    tables = {"bf16[4,1024,64]", "bf16[4,1024,1,64]"}
    assert not {table for table in tables if table in hlo}
