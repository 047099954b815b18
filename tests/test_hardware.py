import pytest

from roformer_jax.hardware import CHIPS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_a_chip_is_found_by_what_jax_calls_it(kind, name):
    assert chip_of(kind).name == name


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 PCIe", "TPU v99"])
def test_an_unknown_chip_has_no_figures(kind):
    assert chip_of(kind) is None


def test_no_two_chips_share_a_name_or_a_kind():
    kinds = [kind for chip in CHIPS for kind in chip.kinds]
    assert len(set(kinds)) == len(kinds)
    assert len({chip.name for chip in CHIPS}) == len(CHIPS)


def test_float32_is_never_faster_than_bfloat16():
    assert all(chip.peak("float32") <= chip.peak("bfloat16") for chip in CHIPS)


def test_half_a_chip_has_half_of_everything():
    whole = chip_of("TPU v4")
    half = whole.part(0.5)
    assert (half.bfloat16, half.memory, half.bandwidth) == (137.5e12, 16 * 2**30, 614e9)
