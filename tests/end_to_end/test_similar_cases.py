"""Staged pretraining, and similar cases and their control after it, through the real command line."""

import json

import pytest

from roformer_jax.run_folder import read_json
from tests.end_to_end.conftest import TINY_MODEL, sentence

ANIMALS, TOOLS = "ape bat cat dog elk fox gnu hen".split(), "adze bolt cog drill file hoe jack lathe".split()


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    """Triples of which A and B are about animals, or both about tools, and C is of the other kind."""
    rows = []
    for i in range(40):
        own, other = (ANIMALS, TOOLS) if i % 2 else (TOOLS, ANIMALS)
        rows.append({"A": f"{i} {sentence(i, own)}", "B": f"b {sentence(i + 1, own)}", "C": f"c {sentence(i, other)}"})
    path = tmp_path_factory.mktemp("triples") / "triples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def inferences(tmp_path_factory):
    """Pairs of sentences as OCNLI has them: what most annotators agree on, or a hyphen, and columns of null."""
    labels = ("entailment", "neutral", "contradiction", "-")
    pairs = [(f"{i} {sentence(i, ANIMALS)}", sentence(i, TOOLS)) for i in range(48)]
    rows = [{"sentence1": a, "sentence2": b, "label": labels[i % 4], "label0": None} for i, (a, b) in enumerate(pairs)]
    path = tmp_path_factory.mktemp("inferences") / "train.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, commands, triples, inferences, texts):
    """One length, one seed: two stages, a fine-tuning, the same command again, and one of a control."""
    root = tmp_path_factory.mktemp("scm")
    model = [word.replace("--", "--pretraining.base.", 1) for word in TINY_MODEL]
    shared = [
        *["--pretraining.base.data.path", str(texts), "--pretraining.base.run-dir", str(root / "pretraining"), *model],
        *["--pretraining.lengths", "32", "64", "--pretraining.batch-sizes", "4", "2", "--pretraining.steps", "3", "2"],
        *["--pretraining.base.cache-dir", str(root / "cache"), "--base.cache-dir", str(root / "cache")],
        *["--results", str(root / "page.md"), "--base.training.epochs", "1", "--seeds", "0"],
    ]
    long = ["train", "configs/scm.py", *shared, "--values", "128"]
    long += ["--base.data.path", str(triples), "--base.run-dir", str(root / "cases")]
    short = ["train", "configs/ocnli.py", *shared, "--values", "64"]
    short += ["--base.data.path", str(inferences), "--base.run-dir", str(root / "pairs")]
    outcomes = commands(long, long, short)
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], [outcome.err for outcome in outcomes]
    return root, *outcomes


def test_a_stage_starts_where_the_one_before_ended(made):
    root, first, again, control = made
    assert "stage 2 of 2: 2 rows of 64 tokens, 2 updates" in first.text and "stage 2" not in again.text + control.text
    stages = read_json(root / "pretraining" / "stages.json")
    assert set(stages) == {"1", "2"} and set(stages["1"]) == {"loss", "accuracy"}
    configs = [read_json(root / "pretraining" / f"stage-{number}" / "config.json") for number in (1, 2)]
    assert [config["data"]["length"] for config in configs] == [32, 64]
    assert configs[1]["init_from"] == str(root / "pretraining" / "stage-1") and configs[0]["init_from"] is None


def test_a_case_is_scored_by_triples(made):
    cell = read_json(made[0] / "page" / "scm" / "128-0.json")
    assert set(cell["metrics"]) == {"loss", "accuracy", "triples"}
    assert 0 <= cell["metrics"]["triples"] <= 1
    page = (made[0] / "page.md").read_text(encoding="utf-8")
    assert "pretrained in stages of 3 of 4 x 32 tokens and 2 of 2 x 64 tokens, then 1 epochs of 8 examples" in page
    assert "| 128 |" in page and "Not made yet" not in page


def test_a_control_starts_from_the_same_pretraining_and_leaves_out_what_has_no_label(made):
    root = made[0]
    cell = read_json(root / "page" / "ocnli" / "64-0.json")
    assert set(cell["metrics"]) == {"loss", "accuracy"} and cell["config"]["experiment"] == "Classification"
    assert cell["data"]["label_names"] == ["contradiction", "entailment", "neutral"]
    assert "Chinese inference against length" in (root / "page.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lengths", "32", "64"], "every stage has a length, a batch size and a number of steps, but lengths has 2"),
        (["--steps", "5", "0", "5", "5", "5", "5"], "training.steps must be 1 or more, but is 0"),
    ],
)
def test_stages_that_are_none_are_refused(here, flags, message):
    outcome = here("train", "configs/pretrain_chinese.py", *flags)
    assert outcome.code == 2 and message in outcome.text


def test_a_triple_without_c_is_refused_by_line(here, tmp_path):
    path = tmp_path / "triples.jsonl"
    path.write_text('{"A": "a", "B": "b", "C": "c"}\n{"A": "a", "B": "b"}\n', encoding="utf-8")
    (tmp_path / "cases.py").write_text(
        "from roformer_jax.finetuning import SimilarCases\n\n\ndef get_config():\n"
        f"    return SimilarCases(run_dir={str(tmp_path / 'run')!r})\n",
        encoding="utf-8",
    )
    outcome = here("train", str(tmp_path / "cases.py"), "--data.path", str(path))
    assert (
        outcome.code == 2
        and "triples.jsonl:2: keys ['A', 'B'] where the first line has ['A', 'B', 'C']" in outcome.text
    )
    assert not (tmp_path / "run").exists()
