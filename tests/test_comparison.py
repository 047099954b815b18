"""A comparison varies one field, its cells are runs, and its section of the page says what was measured."""

import dataclasses
from pathlib import Path

import pytest

from roformer_jax.cells import config_of, with_section
from roformer_jax.comparison import Comparison, Run, spread_of, updates_in_words, updates_to
from roformer_jax.errors import InputError
from roformer_jax.language_modelling import ByteLM
from roformer_jax.models import RoFormerConfig
from roformer_jax.report.comparison import draw_curves
from roformer_jax.training.loop import TrainingConfig

MODEL = RoFormerConfig(vocab_size=261, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
LOSSES = {
    Run("rope", 0): (8.0, 3.0, 2.0),
    Run("rope", 5): (8.1, 3.2, 2.2),
    Run("none", 0): (8.0, 3.5, 2.5),
    Run("none", 5): (8.2, 3.5, 2.7),
}


@pytest.fixture
def comparison(tmp_path):
    return Comparison(
        base=ByteLM(run_dir="runs/all", model=MODEL, training=TrainingConfig(batch_size=4, steps=30)),
        name="letters",
        title="Letters",
        command="python train.py letters.py",
        metric="bits_per_byte",
        seeds=(0, 5),
        results=str(tmp_path / "page.md"),
    )


def evaluations(values):
    return [{"step": 10 * (i + 1), "bits_per_byte": value} for i, value in enumerate(values)]


def finish(comparison, cell, **more):
    content = {"seconds": 30.0, "made": "today", "config": config_of(comparison.experiment_of(cell))}
    if cell in LOSSES:
        losses = LOSSES[cell]
        content |= {"evaluations": evaluations(losses), "metrics": {"bits_per_byte": losses[-1]}}
    comparison.write(cell, content | more)


def page_of(comparison):
    comparison.write_page()
    return Path(comparison.results).read_text(encoding="utf-8")


def test_runs_differ_in_position_encoding_seed_and_folder_alone(comparison):
    varied = comparison.experiment_of(Run("none", 5))
    back = dataclasses.replace(
        varied, seed=0, run_dir="runs/all", model=dataclasses.replace(varied.model, position_encoding="rope")
    )
    assert back == comparison.base
    assert (varied.model.position_encoding, varied.seed, varied.run_dir) == ("none", 5, "runs/all/none-5")
    assert [cell.name for cell in comparison.wanted()] == ["rope-0", "none-0", "rope-5", "none-5"]


def test_the_section_holds_every_value_with_its_cell_and_the_differences_seed_by_seed(comparison):
    for cell in comparison.every():
        finish(comparison, cell)
    page = page_of(comparison)
    assert (
        "| rope | 2.100 ± 0.141 | [2.000](page/letters/rope-0.json), [2.200](page/letters/rope-5.json) |  |  |" in page
    )
    assert "| none | 2.600 ± 0.141 | [2.500](page/letters/none-0.json), [2.700](page/letters/none-5.json) |" in page
    assert "| -0.500 ± 0.000 | 25 ± 0 updates |" in page, "rope falls to 2.5 between updates 20 and 30, at 3.0 and 2.0"
    assert "`python train.py letters.py` (today)" in page and "30 updates of 4 rows x 1024 tokens; 2 minutes" in page
    assert "Not made yet" not in page and (Path(comparison.results).parent / "page" / "letters.svg").exists()


def test_runs_that_are_missing_are_named(comparison):
    assert "Not made yet: rope-0, none-0, rope-5, none-5. The same command goes on." in page_of(comparison)
    finish(comparison, Run("rope", 0))
    finish(comparison, Run("none", 5))
    page = page_of(comparison)
    assert "| none | 2.700 | [2.700](page/letters/none-5.json) |  |  |" in page, "seeds are compared with themselves"
    assert "Not made yet: none-0, rope-5." in page


def test_a_section_of_runs_that_left_no_cells_stays(comparison):
    older = with_section("# Results", "letters", ["measured before"])
    Path(comparison.results).write_text(older, encoding="utf-8")
    assert page_of(comparison) == older
    finish(comparison, Run("rope", 0))
    assert "measured before" not in page_of(comparison)


def test_lengths_have_a_table_and_an_encoding_may_end_before(comparison):
    comparison = dataclasses.replace(comparison, lengths=(2048,))
    finish(comparison, Run("rope", 0), lengths={"2048": 2.25})
    finish(comparison, Run("none", 0), lengths={"2048": None})
    page = page_of(comparison)
    assert "| bits per byte at a length of | 1,024 (trained) | 2,048 |" in page
    assert "| rope | 2.000 | 2.250 |" in page and "| none | 2.500 | ends before |" in page


def test_any_field_may_be_varied_and_other_metrics_shown(comparison):
    comparison = dataclasses.replace(comparison, vary="data.length", values=(64, 32), also=("accuracy",), seeds=(0,))
    assert [comparison.experiment_of(cell).data.length for cell in comparison.every()] == [64, 32]
    for cell in comparison.every():
        evaluated = [{"step": 30, "bits_per_byte": 2.0, "accuracy": cell.value / 100}]
        finish(comparison, cell, evaluations=evaluated)
    page = page_of(comparison)
    assert "| length | bits per byte, mean ± standard deviation | seeds 0 |" in page
    assert "| 32 | 2.000 | [2.000](page/letters/32-0.json) | +0.000 | 30 updates | 0.320 |" in page


@pytest.mark.parametrize(("value", "updates"), [(9.0, 10.0), (8.0, 10.0), (5.5, 15.0), (3.0, 20.0), (1.9, None)])
def test_updates_to_a_loss_are_read_between_evaluations(value, updates):
    assert updates_to(evaluations((8.0, 3.0, 2.0)), "bits_per_byte", value) == updates


def test_updates_that_were_not_enough_are_said():
    assert updates_in_words([]) == ""
    assert updates_in_words([None, None]) == "never"
    assert updates_in_words([1500.0, None]) == "1,500 updates, never in 1 of 2"


def test_a_section_takes_the_place_of_its_older_self_and_of_nothing_else():
    page = with_section("# Results\n", "a", ["old"])
    page = with_section(page, "b", ["other"])
    changed = with_section(page, "a", [r"new \1"])
    assert changed == page.replace("old", r"new \1") and "other" in changed


def test_one_value_has_no_deviation():
    assert (spread_of([1.25]), spread_of([1.0, 2.0])) == ("1.250", "1.500 ± 0.707")


def test_the_figure_names_every_encoding_with_its_mean(tmp_path):
    file = tmp_path / "new" / "curves.svg"
    runs = {e: [evaluations(LOSSES[Run(e, seed)]) for seed in (0, 5)] for e in ("rope", "none")}
    draw_curves(file, runs, "bits_per_byte")
    svg = file.read_text(encoding="utf-8")
    assert all(text in svg for text in ("rope 2.100", "none 2.600", "bits per byte", "update"))
    assert [path.name for path in file.parent.iterdir()] == ["curves.svg"]


@pytest.mark.parametrize("fields", [{"seeds": ()}, {"values": ("rope", "rope")}])
def test_what_cannot_be_compared_is_refused(comparison, fields):
    with pytest.raises(InputError, match="must be different values, at least one"):
        dataclasses.replace(comparison, **fields)
