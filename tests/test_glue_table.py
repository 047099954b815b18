"""The fair table grows cell by cell, chooses learning rates on the first seed, and claims nothing from single seeds."""

import dataclasses
from pathlib import Path

import pytest

from roformer_jax.cells import config_of
from roformer_jax.errors import InputError
from roformer_jax.finetuning import Glue
from roformer_jax.glue_table import Cell, GlueTable
from roformer_jax.pretraining import Pretraining
from roformer_jax.report.glue_table import Made, verdict
from roformer_jax.training.loop import TrainingConfig


@pytest.fixture
def table(tmp_path):
    """Two models, two small tasks and a large one, over two rates and two seeds; nothing is made."""
    return GlueTable(
        adaptation=Pretraining(run_dir=str(tmp_path / "runs"), init_from="bert", training=TrainingConfig(steps=2)),
        finetuning=Glue(run_dir="unset"),
        encodings=("rope", "learned"),
        small_tasks=("mrpc", "cola"),
        large_tasks=("sst2",),
        learning_rates=(5e-5, 2e-5),
        seeds=(0, 1),
        results=str(tmp_path / "page.md"),
    )


def finish(table, cell, score):
    table.write(cell, measured(cell, score) | {"config": config_of(table.experiment_of(cell))})


def measured(cell, score):
    return cell._asdict() | {"metric": "f1", "score": score, "training_examples": 3668, "seconds": 60.0}


def next_of(table):
    return next(iter(table.missing()))


def test_every_model_task_and_rate_has_the_first_seed_before_any_has_the_second(table):
    cells = list(table.wanted())
    assert len(cells) == 3 * 2 * 2 + 3 * 2 + 3
    assert cells[:3] == [Cell(model, "mrpc", 5e-5, 0) for model in ("original", "rope", "learned")]
    assert {cell.seed for cell in cells[:12]} == {0}
    assert {(cell.task, cell.seed) for cell in cells[12:18]} == {("mrpc", 1), ("cola", 1)}
    assert {(cell.task, cell.seed) for cell in cells[18:]} == {("sst2", 0)}


def test_the_learning_rate_is_the_best_of_the_first_seed_for_each_model_and_task(table):
    for cell in list(table.wanted())[:12]:
        wins = (cell.model == "rope") == (cell.learning_rate == 2e-5)
        finish(table, cell, 0.8 if wins else 0.7)
    later = [cell for cell in table.wanted() if cell.seed == 1 or cell.task == "sst2"]
    assert {cell.model: cell.learning_rate for cell in later} == {"original": 5e-5, "rope": 2e-5, "learned": 5e-5}


def test_a_finished_cell_is_not_made_again_and_the_next_is_known(table):
    first, second, *_ = table.wanted()
    assert next_of(table) == first
    finish(table, first, 0.5)
    assert next_of(table) == second


def test_cells_of_another_config_or_damaged_ones_do_not_stand_in_the_table(table):
    first = next_of(table)
    finish(table, first, 0.5)
    longer = dataclasses.replace(table, finetuning=dataclasses.replace(table.finetuning, length=64))
    file = table.file_of(first.name)
    with pytest.raises(InputError, match=f"{file} was made by another config.* length was 128, now 64; set that back"):
        longer.read(first)
    elsewhere = dataclasses.replace(table, finetuning=dataclasses.replace(table.finetuning, folder="other/glue"))
    assert elsewhere.read(first)["score"] == 0.5, "where the data lies does not matter"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=f"{file} lacks its config; remove it to make the cell again"):
        table.read(first)


def test_a_cell_is_named_as_its_file_and_other_names_are_refused(table):
    cell = Cell("rope", "mrpc", 2e-5, 1)
    assert (cell.name, table.cell_of("rope/mrpc-2e-05-1")) == ("rope/mrpc-2e-05-1", cell)
    with pytest.raises(InputError, match="'rope/mrpc-1-1' is none of the table's; they are called like original/mrpc"):
        table.cell_of("rope/mrpc-1-1")


def test_cells_differ_in_what_they_compare_alone(table):
    one, other = (table.experiment_of(Cell(model, "cola", 2e-5, 1)) for model in ("rope", "learned"))
    assert dataclasses.replace(one, init_from=other.init_from, run_dir=other.run_dir) == other
    assert table.experiment_of(Cell("original", "cola", 2e-5, 1)).init_from == "bert"
    rope, learned = table.adapted("rope"), table.adapted("learned")
    assert dataclasses.replace(rope, init_positions="learned", run_dir=learned.run_dir) == learned
    assert (one.training.epochs, table.experiment_of(Cell("rope", "sst2", 2e-5, 0)).training.epochs) == (3.0, 1.0)


def test_the_page_names_subsets_scores_and_what_is_missing(table):
    for cell in table.wanted():
        if cell.task == "mrpc":
            finish(table, cell, 0.88 if cell.model == "rope" else 0.86 + 0.01 * cell.seed)
    table.write_page()
    page = Path(table.results).read_text(encoding="utf-8")
    cells = "[86.0](page/glue/original/mrpc-5e-05-0.json), [87.0](page/glue/original/mrpc-5e-05-1.json)"
    assert f"| mrpc (f1) | 3,668 | 86.5 ± 0.7 ({cells}; 5e-05) | 88.0 ± 0.0 ([88.0]" in page
    assert "; 5e-05) | +1.5 |" in page
    assert "rope is ahead by more than the deviation over seeds on mrpc (+1.5, deviation 0.5)" in page
    assert "Not made yet: original/cola-5e-05-0" in page and "| cola" not in page
    finish(table, Cell("rope", "sst2", 5e-5, 0), 0.9)
    table.write_page()
    assert "| sst2 (f1) | 3,668, a subset of 67,349 | not made yet |" in Path(table.results).read_text(encoding="utf-8")
    assert (Path(table.results).parent / "page" / "glue.svg").exists()


def test_the_page_sets_runs_in_pytorch_beside_the_same_cells_and_no_others(table):
    ours = [Cell("original", "mrpc", 5e-5, seed) for seed in table.seeds]
    finish(table, ours[0], 0.86)
    finish(table, ours[1], 0.97)
    for theirs, score in ((ours[0], 0.85), (ours[0]._replace(learning_rate=2e-5), 0.5)):  # one that was not chosen
        table.write(theirs := theirs._replace(model="pytorch"), measured(theirs, score))
    table.write_page()
    page = Path(table.results).read_text(encoding="utf-8")
    link = "page/glue/pytorch/mrpc-5e-05-0.json"
    assert (
        f"PyTorch (`benchmarks.glue_baseline`): mrpc 85.0 ([85.0]({link}); 5e-05), original lies +1.0 from it." in page
    )


def made(model, *scores):
    return [Made("-", model, "mrpc", 5e-5, seed, "f1", score, 10, 1.0) for seed, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("rope", "learned", "expected"),
    [
        ((0.9, 0.91), (0.8, 0.81), "rope is ahead by more than the deviation over seeds on mrpc (+10.0"),
        ((0.8, 0.81), (0.9, 0.91), "learned is ahead by more than the deviation over seeds on mrpc (-10.0"),
        ((0.8, 0.9), (0.81, 0.9), "within it lie mrpc (-0.5, deviation 6.7)"),
        ((0.9,), (0.8, 0.8), "one seed, so no deviation: mrpc (+10.0)"),
        ((), (0.8,), "nothing to compare yet"),
    ],
)
def test_the_verdict_follows_the_numbers(rope, learned, expected):
    best = {("rope", "mrpc"): made("rope", *rope), ("learned", "mrpc"): made("learned", *learned)}
    assert expected in verdict(best, ["mrpc"], "rope", "learned")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds must be different values"),
        ({"encodings": ("rope", "keep")}, "name the position encodings"),
        ({"encodings": ("rope",)}, "at least two"),
        ({"large_tasks": ("mrpc",)}, "a task stands once"),
        ({"adaptation": Pretraining(run_dir="-")}, "adaptation.init_from is not set"),
        ({"adaptation": Pretraining(run_dir="-", init_from="bert")}, "adaptation.training.steps is not set"),
        ({"minutes": float("nan")}, "minutes = nan must be a number"),
    ],
)
def test_what_makes_no_table_is_refused(table, fields, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(table, **fields)
