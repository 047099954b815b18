"""A comparison varies one field, and its section of the page says what was measured."""

import dataclasses

import pytest

from roformer_jax.comparison import Comparison, section, spread_of, with_section
from roformer_jax.errors import InputError
from roformer_jax.language_modelling import ByteLM
from roformer_jax.models import RoFormerConfig
from roformer_jax.report.comparison import draw_curves
from roformer_jax.training.loop import TrainingConfig

MODEL = RoFormerConfig(vocab_size=261, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
COMPARISON = Comparison(
    base=ByteLM(run_dir="runs/all", model=MODEL, training=TrainingConfig(batch_size=4, steps=20)),
    name="letters",
    title="Letters",
    command="python train.py letters.py",
    metric="bits_per_byte",
    seeds=(0, 5),
)


def rows(*values):
    train = {"kind": "train", "step": 10, "seconds": 30.0}
    return [train, *({"kind": "eval", "step": 10 * i, "bits_per_byte": value} for i, value in enumerate(values))]


METRICS = {
    ("rope", 0): rows(8.0, 3.0, 2.0),
    ("rope", 5): rows(8.1, 3.1, 2.2),
    ("none", 0): rows(8.0, 3.5, 2.5),
    ("none", 5): rows(8.2, 3.5, 2.6),
}


def test_runs_differ_in_position_encoding_seed_and_folder_alone():
    varied = COMPARISON.varied("none", 5)
    back = dataclasses.replace(
        varied, seed=0, run_dir="runs/all", model=dataclasses.replace(varied.model, position_encoding="rope")
    )
    assert back == COMPARISON.base
    assert (varied.model.position_encoding, varied.seed, varied.run_dir) == ("none", 5, "runs/all/none-5")


def test_the_section_holds_every_value_and_the_differences_seed_by_seed(tmp_path):
    text = "\n".join(section(COMPARISON, METRICS, tmp_path / "letters.svg"))
    assert "| rope | 2.100 ± 0.141 | 2.000, 2.200 |" in text
    assert "| none | 2.550 ± 0.071 | 2.500, 2.600 |" in text
    assert "rope against none, seed by seed: -0.450 ± 0.071 bits per byte" in text
    assert "python train.py letters.py" in text and "20 updates of 4 rows x 1024 tokens; 2 minutes" in text


def test_a_section_takes_the_place_of_its_older_self_and_of_nothing_else():
    page = with_section("# Results\n", "a", ["old"])
    page = with_section(page, "b", ["other"])
    changed = with_section(page, "a", [r"new \1"])
    assert changed == page.replace("old", r"new \1") and "other" in changed


def test_one_value_has_no_deviation():
    assert (spread_of([1.25]), spread_of([1.0, 2.0])) == ("1.250", "1.500 ± 0.707")


def test_the_figure_names_every_encoding_with_its_mean(tmp_path):
    file = tmp_path / "new" / "curves.svg"
    draw_curves(file, {e: [METRICS[e, 0], METRICS[e, 5]] for e in ("rope", "none")}, "bits_per_byte")
    svg = file.read_text(encoding="utf-8")
    assert all(text in svg for text in ("rope 2.100", "none 2.550", "bits per byte", "update"))
    assert [path.name for path in file.parent.iterdir()] == ["curves.svg"]


@pytest.mark.parametrize("fields", [{"seeds": ()}, {"encodings": ("rope", "rope")}])
def test_what_cannot_be_compared_is_refused(fields):
    with pytest.raises(InputError, match="must be different values, at least one"):
        dataclasses.replace(COMPARISON, **fields)
