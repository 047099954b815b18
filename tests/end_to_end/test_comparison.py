"""A comparison of position encodings to its page and its report, through the real command line."""

import json

import pytest

CONFIG = """
import dataclasses
from pathlib import Path
from roformer_jax.commands.parsing import load_config
from roformer_jax.comparison import Comparison

def get_config():
    return Comparison(
        base=load_config(Path("configs/pretrain_small.py")),
        name="tiny",
        title="Tiny",
        command="python train.py tiny.py",
        metric="loss",
        values=("rope", "learned"),
        seeds=(3,),
        lengths=(640,),
    )
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, commands, pretraining_flags):
    """A comparison that is begun without time, then made; one run of it again; and the report of the page."""
    root = tmp_path_factory.mktemp("comparison")
    flags = [word.replace("--", "--base.", 1) for word in pretraining_flags(root / "runs", steps=8)]
    config, results = root / "tiny.py", root / "page.md"
    config.write_text(CONFIG, encoding="utf-8")
    train = ["train", str(config), *flags, "--results", str(results)]
    begun, done = commands([*train, "--minutes", "0"], train)
    first = cell_of(root, "rope-3")
    other_budget, again = commands([*train, "--base.training.steps", "9"], [*train, "--cell", "rope-3"])
    for outcome in (begun, done, again):
        assert outcome.code == 0, outcome.err
    assert "0 minutes are over: the same command goes on with rope-3" in begun.text
    return root, first, other_budget


def cell_of(root, name):
    return json.loads((root / "page" / "tiny" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_run_is_a_small_file_and_its_folder_is_not_kept(made):
    root = made[0]
    assert {file.name for file in (root / "page" / "tiny").iterdir()} == {"rope-3.json", "learned-3.json"}
    assert not list((root / "runs").iterdir())
    cell = cell_of(root, "learned-3")
    assert [row["step"] for row in cell["evaluations"]] == [8]
    assert cell["config"]["model.position_encoding"] == "learned" and "data.path" not in cell["config"]
    assert cell["lengths"] == {"640": None}, "the table of learned positions has 512 rows"


def test_a_run_made_again_has_the_same_numbers(made):
    root, first, _ = made
    again = cell_of(root, "rope-3")
    assert (again["evaluations"], again["lengths"]) == (first["evaluations"], first["lengths"])
    assert first["lengths"]["640"] > 0


def test_runs_of_another_budget_are_not_mixed_in(made):
    outcome = made[2]
    assert outcome.code == 2
    assert "was made by another config, and one table has one: training.steps was 8, now 9" in outcome.text


def test_the_page_compares_them(made):
    page = (made[0] / "page.md").read_text(encoding="utf-8")
    assert "## Tiny" in page and "[page/tiny" not in page and "(page/tiny/learned-3.json)" in page
    assert "| learned |" in page and "ends before" in page and "Not made yet" not in page


def test_the_report_takes_tables_alone(here, tmp_path):
    outcome = here("report", "--configs", "configs/pretrain_small.py", "--output", str(tmp_path / "report.html"))
    assert outcome.code == 2 and "takes tables of cells, such as configs/glue_table.py, not Pretraining" in outcome.text
    assert not list(tmp_path.iterdir())


def test_a_report_holds_runs_beside_the_tables(here, tmp_path, pretrained):
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG.replace('name="tiny"', f'results="{tmp_path}/page.md", name="tiny"'), encoding="utf-8")
    outcome = here("report", str(pretrained), "--configs", str(config), "--output", str(tmp_path / "report.html"))
    assert outcome.code == 0, outcome.err
    document = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not made yet: rope-3, learned-3." in document and "model.hidden_size" in document
    assert f"wrote {tmp_path / 'page.md'}" in outcome.out
