"""The report is the page of results as one file, and every number on it leads to the run that made it."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from roformer_jax.cells import config_of
from roformer_jax.comparison import Comparison, Run
from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.report.results_page import results_page
from roformer_jax.results import write_results
from roformer_jax.training.loop import TrainingConfig


class Links(HTMLParser):
    """Collects the ids, the targets of links and everything that a browser would fetch."""

    def __init__(self, document):
        super().__init__()
        self.ids, self.targets, self.fetched = set(), [], []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes.get("id")}
        if tag == "a":
            self.targets.append(attributes["href"])
        self.fetched += [attributes[name] for name in ("src", "srcset", "data") if name in attributes]
        self.fetched += [attributes["href"]] if tag in ("link", "image") else []


@pytest.fixture
def table(tmp_path):
    """A comparison of which one of four runs is finished."""
    comparison = Comparison(
        base=Pretraining(run_dir="-", model=RoFormerConfig(), training=TrainingConfig(steps=30)),
        name="letters",
        title="Letters",
        command="python train.py letters.py",
        metric="loss",
        seeds=(0, 1),
        results=str(tmp_path / "docs" / "results.md"),
    )
    cell = Run("rope", 0)
    content = {
        "config": config_of(comparison.experiment_of(cell)),
        "evaluations": [{"step": 30, "loss": 2.5}],
        "metrics": {"loss": 2.5},
        "seconds": 60.0,
        "made": "on a day, by a <version>",
    }
    comparison.write(cell, content)
    return comparison


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"experiment": "Pretraining", "model": {"hidden_size": 17}}))
    rows = [{"step": 1, "kind": "train", "loss": 4.0}, {"step": 2, "kind": "train", "loss": 3.0}]
    rows.append({"step": 2, "kind": "eval", "loss": 3.25})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "results.json").write_text(json.dumps({"metrics": {"loss": 3.25}, "made": "yesterday"}))
    return folder


def test_every_number_leads_to_its_run_inside_the_one_file(table, run, tmp_path):
    page, output = write_results([table], [run], tmp_path / "report.html")
    assert "[2.500](results/letters/rope-0.json)" in page.read_text(encoding="utf-8")
    document = output.read_text(encoding="utf-8")
    links = Links(document)
    assert "#cell-results/letters/rope-0" in links.targets
    assert {target.removeprefix("#") for target in links.targets if target.startswith("#")} <= links.ids
    assert not links.fetched and "url(http" not in document and "@import" not in document
    assert "by a &lt;version&gt;" in document and "config.model.hidden_size" in document


def test_missing_runs_are_named_and_other_runs_shown(table, run, tmp_path):
    document = write_results([table], [run], tmp_path / "report.html")[1].read_text(encoding="utf-8")
    assert "Not made yet: none-0, rope-1, none-1." in document
    assert all(text in document for text in ("my run", "yesterday", "3.2500", "model.hidden_size", "17"))


def test_the_decay_of_figure_2_is_computed_into_the_page(table, tmp_path):
    page, output = write_results([table], [], tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    # The mean over j of |S_j| at distance 0, where S_j = j: (1 + ... + 64) / 64.
    assert "| upper bound, 128 channels | 32.50 |" in text
    assert (page.parent / "results" / "decay.svg").exists()
    assert output.read_text(encoding="utf-8").count("<svg") == 2


def test_the_same_input_gives_the_same_bytes(table, run, tmp_path):
    first, second = (write_results([table], [run], tmp_path / name)[1].read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_markup_in_a_page_stays_text(tmp_path):
    document = results_page('# Results\n\n<script>alert("1")</script>\n', tmp_path, {}, [])
    assert "<script>" not in document and "&lt;script&gt;" in document


@pytest.mark.parametrize(
    ("markdown", "message"),
    [
        ("![curve](results/gone.svg)", "shows .*gone.svg, which is missing"),
        ("[1](gone.json)", "leads to .*gone.json"),
    ],
)
def test_what_a_page_shows_must_be_there(tmp_path, markdown, message):
    with pytest.raises(InputError, match=f"{message}.*make its table again"):
        results_page(markdown, tmp_path, {}, [])


def test_a_folder_that_is_no_run_is_refused_and_nothing_written(table, run, tmp_path):
    page = Path(table.results)
    with pytest.raises(InputError, match=r"nowhere is not a run: config\.json is missing"):
        write_results([table], [tmp_path / "nowhere"], tmp_path / "report.html")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="my run has no metrics of an update yet: train it first"):
        write_results([table], [run], tmp_path / "report.html")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"there is no .*metrics\.jsonl: is .*my run the folder of a run\?"):
        write_results([table], [run], tmp_path / "report.html")
    assert not page.exists() and not (tmp_path / "report.html").exists()


def test_a_report_is_of_one_page(table, tmp_path):
    with pytest.raises(InputError, match="got tables of none"):
        write_results([], [], tmp_path / "report.html")
