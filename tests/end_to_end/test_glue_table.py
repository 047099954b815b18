"""A table of GLUE scores from one checkpoint to its page, through the real command line."""

import json
import shutil
from pathlib import Path

import pytest

CHECKPOINT = Path(__file__).parents[1] / "golden" / "checkpoints" / "bert_masked_lm"
WORDS = "ape bat cat dog elk fox gnu hen adze bolt cog drill file hoe".split()
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
CELL = "rope/cola-5e-05-0"


@pytest.fixture(scope="module")
def made(tmp_path_factory, commands):
    """A table of one task and one seed, begun without time, made, and one cell of it made again."""
    root = tmp_path_factory.mktemp("table")
    shutil.copytree(CHECKPOINT, root / "bert")
    (root / "bert" / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    lines = [" ".join(WORDS[(i + k) % len(WORDS)] for k in range(5)) for i in range(24)]
    (root / "texts.csv").write_text("\n".join(["text", *lines]) + "\n", encoding="utf-8")
    for split in ("train", "dev"):
        rows = [f"x\t{i % 2}\t\t{line}" for i, line in enumerate(lines[:16])]
        (root / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    table = [
        *["table", "--small-tasks", "cola", "--large-tasks", "--learning-rates", "5e-5", "--seeds", "0"],
        *["--results", str(root / "page.md")],
        *["--adaptation.init-from", str(root / "bert"), "--adaptation.run-dir", str(root / "runs")],
        *["--adaptation.data.path", str(root / "texts.csv"), "--adaptation.data.length", "16"],
        *["--adaptation.data.holdout", "0.3", "--adaptation.training.steps", "2"],
        *["--adaptation.training.batch-size", "2", "--finetuning.folder", str(root), "--finetuning.length", "16"],
        *["--adaptation.cache-dir", str(root / "cache"), "--finetuning.cache-dir", str(root / "cache")],
        *["--finetuning.training.batch-size", "8"],
    ]
    begun, done = commands([*table, "--minutes", "0"], table)
    first = cell_of(root)
    (again,) = commands([*table, "--cell", CELL])
    for outcome in (begun, done, again):
        assert outcome.code == 0, outcome.err
    assert "0 minutes are over: the same command goes on with original/cola-5e-05-0" in begun.text
    assert "right after the swap" in done.text
    return root, first


def cell_of(root):
    return json.loads((root / "page" / "glue" / f"{CELL}.json").read_text(encoding="utf-8"))


def test_every_cell_and_adaptation_is_a_small_file_and_no_run_of_a_cell_is_kept(made):
    root, _ = made
    folder = root / "page" / "glue"
    cells = {str(path.relative_to(folder)) for path in folder.rglob("*.json")}
    of_models = {f"{model}/cola-5e-05-0.json" for model in ("original", "rope", "learned")}
    assert cells == of_models | {"rope/adaptation.json", "learned/adaptation.json"}
    assert not (root / "runs" / "cells" / CELL).exists()


def test_a_cell_made_again_has_the_same_scores(made):
    root, first = made
    assert cell_of(root)["metrics"] == first["metrics"]


def test_the_page_has_the_table_and_its_budget(made):
    page = (made[0] / "page.md").read_text(encoding="utf-8")
    assert "after the same 2 updates of masked LM" in page and "Not made yet" not in page
    assert "| cola (matthews) | 16, a subset of 8,551 |" in page


def test_an_adaptation_says_what_the_swap_of_positions_did_to_the_loss(made):
    losses = json.loads((made[0] / "runs" / "rope" / "swap.json").read_text(encoding="utf-8"))
    assert list(losses["after_updates"]) == ["0", "2"]
    assert losses["before_the_swap"] > 0
    own = json.loads((made[0] / "runs" / "learned" / "swap.json").read_text(encoding="utf-8"))
    assert own["before_the_swap"] == own["after_updates"]["0"] != losses["after_updates"]["0"]
