"""Causal language models through the command line: trained, measured, written with, and read at other lengths."""

import json
import re
from pathlib import Path

import pytest

TEXT = b"the cat sat on the mat and the dog sat on the log; " * 200
BYTES_MODEL = [
    *["--model.hidden-size", "32", "--model.num-hidden-layers", "1", "--model.num-attention-heads", "2"],
    *["--model.intermediate-size", "64"],
]
BRIEF = [
    *["--optimizer.learning-rate", "2e-2", "--optimizer.warmup", "0", "--optimizer.schedule", "constant"],
    *["--training.batch-size", "8", "--training.steps", "40"],
    *["--training.eval-every", "20", "--training.save-every", "20"],
]


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("book") / "book.txt"
    file.write_bytes(TEXT)
    return file


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory, process, book, cache) -> Path:
    """The folder of a run that has learnt `TEXT`."""
    run = tmp_path_factory.mktemp("runs") / "bytes"
    outcome = process(
        "train.py", "configs/charlm_small.py", "--data.path", str(book), "--data.length", "64", "--data.holdout", "0.1",
        "--run-dir", str(run), "--cache-dir", str(cache), *BYTES_MODEL, *BRIEF,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return run


def test_a_byte_model_learns_its_text_in_bits_per_byte(byte_model):
    results = json.loads((byte_model / "results.json").read_text(encoding="utf-8"))["metrics"]
    assert set(results) == {"loss", "accuracy", "bits_per_byte", "unigram_loss"}
    assert results["loss"] < 0.5 * results["unigram_loss"]


def test_a_run_writes_a_text_on_and_measures_itself_again(byte_model, commands):
    greedy = ["generate", str(byte_model), "--prompt", "the cat sat on the ", "--tokens", "30", "--temperature", "0"]
    drawn = ["generate", str(byte_model), "--prompt", "the dog ", "--tokens", "12", "--top-k", "3", "--seed", "7"]
    evaluated, first, again, other = commands(["evaluate", str(byte_model)], greedy, greedy, drawn)
    results = json.loads((byte_model / "results.json").read_text(encoding="utf-8"))["metrics"]
    assert evaluated.code == 0
    assert float(re.search(r"bits_per_byte\s+([\d.]+)", evaluated.out)[1]) == pytest.approx(
        results["bits_per_byte"], abs=1e-4
    )
    assert first.code == 0 and first.out == again.out
    assert first.out.startswith("the cat sat on the ") and len(first.out.rstrip("\n").encode()) == 19 + 30
    assert other.code == 0 and other.out.startswith("the dog ")


def test_a_run_is_measured_at_other_lengths(byte_model, commands, tmp_path):
    measured, unknown = commands(
        ["length", str(byte_model), "--lengths", "32,128", "--scalings", "linear", "--output", str(tmp_path)],
        ["length", str(byte_model), "--lengths", "100000"],
    )
    assert measured.code == 0, measured.err
    found = re.findall(r"^(rope(?:, linear)?) +(\d+) tokens +([\d.]+) bits_per_byte$", measured.out, re.MULTILINE)
    assert [(label, length) for label, length, _ in found] == [
        ("rope", "32"), ("rope", "128"), ("rope, linear", "32"), ("rope, linear", "128"),
    ]  # fmt: skip
    assert found[0][2] == found[2][2], "below the trained length nothing is scaled"
    assert {path.name for path in tmp_path.iterdir()} == {"loss-against-length.svg", "loss-against-length.png"}
    assert unknown.code == 2 and "less than a row (data.length = 100000)" in unknown.text


def test_documents_are_modelled_and_end_by_themselves(tmp_path, texts, cache, commands, pretraining_flags):
    run = tmp_path / "run"
    trained, written = commands(
        ["train", "configs/gpt_small.py", *pretraining_flags(run, steps=30)],
        ["generate", str(run), "--prompt", "document 3 says", "--tokens", "12", "--top-p", "0.9"],
    )
    assert trained.code == 0, trained.err
    assert "bits_per_token" in trained.out
    assert written.code == 0 and "document 3 says" in written.out


def test_what_cannot_be_written_is_refused(byte_model, pretrained, here):
    for arguments, message in [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a", "--tokens", "0"], "tokens must be at least 1, got 0"),
        (["--prompt", "a", "--temperature", "-2"], "temperature must be 0"),
        (["--prompt", "a", "--seed", "-1"], "seed = -1 must lie in [0, 2^32)"),
    ]:
        refused = here("generate", str(byte_model), *arguments)
        assert refused.code == 2 and refused.out == "" and message in refused.text
    refused = here("generate", str(pretrained), "--prompt", "a")
    assert refused.code == 2 and "is a Pretraining run; generate needs a causal language model" in refused.text


def test_what_cannot_be_measured_is_refused_before_anything_is(byte_model, here):
    for arguments, message in [
        ([str(byte_model), "--lengths", "32", "0"], "data.length = 0: a row needs at least 8 tokens"),
        ([str(byte_model), "--lengths", "32", "128", "--scalings", "yarn"], "yarn changes the temperature"),
        (["configs/charlm_comparison.py", "--lengths", "32"], "makes several runs; name the folders"),
        (["--lengths", "32"], "name at least one run and one length"),
    ]:
        refused = here("length", *arguments)
        assert refused.code == 2 and refused.out == "" and message in refused.text


def test_a_comparison_runs_every_encoding_once_and_writes_its_page(tmp_path, book, cache, here):
    config = tmp_path / "compare.py"
    config.write_text(
        "import dataclasses\nfrom pathlib import Path\n"
        "from roformer_jax.commands.parsing import load_config\n\n"
        "def get_config():\n    return load_config(Path('configs/charlm_comparison.py'))\n",
        encoding="utf-8",
    )
    arguments = [
        "train", str(config), "--seeds", "3", "--results", str(tmp_path / "results.md"),
        *(f"--base.{flag.removeprefix('--')}" if flag.startswith("--") else flag for flag in [
            "--data.path", str(book), "--data.length", "64", "--data.holdout", "0.1",
            "--run-dir", str(tmp_path / "runs"), "--cache-dir", str(cache), *BYTES_MODEL, *BRIEF,
            "--training.steps", "4",
        ]),
    ]  # fmt: skip
    first = here(*arguments)
    assert first.code == 0, first.err
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| rope |" in page and "| none |" in page and "| seeds 3 |" in page
    assert (tmp_path / "results" / "charlm.svg").is_file()
    assert {file.name for file in (tmp_path / "results" / "charlm").iterdir()} == {"rope-3.json", "none-3.json"}
    again = here(*arguments)
    assert (again.code, again.out) == (0, ""), "a run that is finished was made again"
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == page
