"""What XLA and Mosaic make of softmax attention on packed rows of 4,096 and 8,192 tokens, with no TPU and no GPU."""

import re

import pytest

LENGTHS = 4096, 8192


@pytest.fixture(scope="module", params=["v5e", "h100"])
def device(request):
    return request.param


@pytest.fixture(scope="module")
def programs(device, programs_of):
    return programs_of(device, "compile_attention.py")


def kernels(program):
    return len(re.findall(r'custom_call_target="(?:tpu_custom_call|__cudnn\$\w+)"', program["hlo"]))


def test_the_default_is_the_kernel_on_a_tpu_and_blocks_on_a_gpu(programs, device):
    """On a mesh of several TPUs: one kernel forward, and two backward. cuDNN cannot tell packed segments apart."""
    assert kernels(programs["default 4096"]) == (3 if device == "v5e" else 0)


def test_blocks_take_memory_linear_in_the_length(programs):
    short, long = (programs[f"blockwise {length}"]["temporary_bytes"] for length in LENGTHS)
    assert 0 < long < 2.2 * short


def test_no_matrix_of_all_pairs_is_made(programs):
    for name, program in programs.items():
        length = name.split()[1]
        assert f"{length},{length}" not in program["hlo"], name
