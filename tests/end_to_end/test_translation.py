"""Machine translation through the command line: trained, measured by BLEU, used as a pipe."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from roformer_jax.run_folder import read_json
from tests.tasks.test_translation import write_pairs

SMALL = [
    *["--model.vocab-size", "300", "--model.hidden-size", "32", "--model.num-hidden-layers", "1"],
    *["--model.num-attention-heads", "2", "--model.intermediate-size", "64", "--model.hidden-dropout-prob", "0"],
    # A table that ends where no padding to a power of two does.
    *["--model.position-encoding", "learned", "--model.max-position-embeddings", "30"],
    *["--data.length", "30", "--data.too-long", "drop", "--search.beam", "2"],
    *["--optimizer.learning-rate", "1e-2", "--optimizer.warmup", "5", "--training.batch-size", "8"],
    *["--training.steps", "40", "--training.eval-every", "20", "--training.save-every", "10"],
]


@pytest.fixture(scope="module")
def flags(tmp_path_factory, cache) -> list[str]:
    """What makes configs/multi30k_ende.py tiny."""
    folder = tmp_path_factory.mktemp("pairs")
    train, heldout, test = (write_pairs(folder, name, n, n) for name, n in [("train", 90), ("heldout", 9), ("test", 4)])
    paths = {"": train, "heldout-": heldout, "test-": test}
    data = [part for name, of in paths.items() for side in of for part in (f"--data.{name}{side}", of[side])]
    return ["configs/multi30k_ende.py", *data, *SMALL, "--cache-dir", str(cache)]


@pytest.fixture(scope="module")
def run(flags, tmp_path_factory, process) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    outcome = process("train.py", *flags, "--run-dir", str(folder))
    assert outcome.code == 0, outcome.err
    assert "BLEU of test: " in outcome.out and "tok:13a" in outcome.out
    return folder


def test_a_run_learns_and_says_the_bleu_of_its_tests(run):
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = metrics[0], metrics[-1]
    assert (first["kind"], last["kind"]) == ("train", "eval")
    assert last["loss"] < first["loss"] - 1
    (score,) = json.loads((run / "bleu.json").read_text(encoding="utf-8")).values()
    assert set(score) == {"bleu", "signature"}
    assert len((run / "translations" / "test.txt").read_text(encoding="utf-8").splitlines()) == 4


def test_evaluate_measures_the_mean_of_the_checkpoints_as_it_translates(run, here, tmp_path):
    """The results are those of the last checkpoint alone; to four decimals, and eight devices add otherwise."""
    last = shutil.copytree(run, tmp_path / "last")
    (last / "config.json").write_text(json.dumps(read_json(run / "config.json") | {"averaged": 1}), encoding="utf-8")
    of_mean, of_last = here("evaluate", str(run)), here("evaluate", str(last))
    assert (of_mean.code, of_last.code) == (0, 0), of_mean.err + of_last.err
    expected = read_json(run / "results.json")["metrics"]
    assert of_last.metrics == pytest.approx(expected, abs=1e-4)
    assert set(of_mean.metrics) == set(expected)
    assert abs(of_mean.metrics["loss"] - expected["loss"]) > 0.01  # forty updates move far


def test_lines_from_the_standard_input_are_translated_as_those_of_a_file(run, here, monkeypatch, tmp_path):
    class Input:
        buffer = io.BytesIO(b"rotate the query\nby angle\nthe key of position\n")

    monkeypatch.setattr(sys, "stdin", Input)
    piped = here("translate", str(run))
    assert piped.code == 0, piped.err
    assert len(piped.out.splitlines()) == 3
    assert "3 sentences, " in piped.err and "tokens/s" in piped.err
    (tmp_path / "in").write_bytes(Input.buffer.getvalue())
    filed = here("translate", str(run), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    assert filed.out == "" and (tmp_path / "out").read_text(encoding="utf-8") == piped.out


def test_what_cannot_be_translated_is_refused(run, here, tmp_path):
    (tmp_path / "gap").write_text("one\n\nthree\n", encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    for name, message in [("gap", "gap:2: an empty line"), ("latin", "latin:1: byte 0xe9 is not utf-8")]:
        refused = here("translate", str(run), "--input", str(tmp_path / name))
        assert (refused.code, refused.out) == (2, "") and message in refused.text
    refused = here("export", str(run), "--output", str(tmp_path / "exported"))
    assert refused.code == 2 and "is a Translation run, and export takes" in refused.text


def test_files_that_are_no_pairs_end_with_code_2_before_anything_is_written(flags, here, tmp_path):
    (tmp_path / "short").write_text("one line\n", encoding="utf-8")
    refused = here("train", *flags, "--data.target", str(tmp_path / "short"), "--run-dir", str(tmp_path / "run"))
    assert refused.code == 2
    assert "has 90 lines and " in refused.text and "short has 1: line n of the one" in refused.text
    assert not (tmp_path / "run").exists()
