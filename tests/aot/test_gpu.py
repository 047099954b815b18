"""What XLA and Triton make of the rotation for an H100, with no GPU."""

import re

import pytest

DTYPES = ("bfloat16", "float32")
LAYOUTS = ("half", "interleaved", "interleaved_to_half")
every_kind = pytest.mark.parametrize("kind", [f"{dtype} {layout}" for dtype in DTYPES for layout in LAYOUTS])


@pytest.fixture(scope="module")
def programs(programs_of):
    return programs_of("h100")


def operations(program):
    """Names of the operations of the whole program, those inside fusions too."""
    return re.findall(r"^ +(?:ROOT )?%?\S+ = \S+ ([\w-]+)\(", program["hlo"], re.MULTILINE)


@every_kind
@pytest.mark.parametrize("direction", ["default", "vjp"])
def test_queries_and_keys_are_one_fusion_each(programs, direction, kind):
    hlo = programs[f"{direction} {kind}"]["hlo"]
    entry = hlo[hlo.index("ENTRY") :]
    assert entry.count(" fusion(") == 2
    assert not re.search(r" (copy|transpose|custom-call)\(", entry)


@every_kind
def test_nothing_is_gathered_and_a_table_given_is_not_made_again(programs, kind):
    found = set(operations(programs[f"default {kind}"]))
    assert "multiply" in found
    assert not found & {"gather", "scatter", "cosine", "sine", "dot"}


@every_kind
def test_the_kernel_is_one_call_in_place(programs, kind):
    hlo = programs[f"kernel {kind}"]["hlo"]
    entry = hlo[hlo.index("ENTRY") :]
    assert entry.count('custom_call_target="__gpu$xla.gpu.triton"') == 1
    assert not re.search(r" (copy|transpose|fusion)\(", entry)
    assert re.search(r"input_output_alias=\{ \{0\}: \(0, .*\{1\}: \(1, ", hlo)


@pytest.mark.parametrize("name", ["text", "grid"])
def test_the_cosine_has_no_axis_of_heads(programs, name):
    assert set(re.findall(r"(\w+\[[\d,]*\])\S* cosine\(", programs[name]["hlo"])) == {"f32[4,1024,64]"}


def test_n_dimensional_positions_are_not_multiplied_as_a_matrix(programs):
    hlo = programs["grid"]["hlo"]
    assert not re.search(r" (dot|convolution|custom-call)\(", hlo)
