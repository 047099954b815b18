"""Checkpoints go out of runs and into runs through the real command line, and lose nothing on the way."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

from roformer_jax.run_folder import CHECKPOINTS
from roformer_jax.training.checkpoint import restore_params

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
SERVE = ROOT / "docs" / "examples" / "serve.py"
WORDS = "ape bat cat dog elk fox gnu hen adze bolt cog drill file hoe".split()
SENTENCE = "note 3, cat dog [MASK] fox"


@pytest.fixture(scope="module")
def exported(pretrained, commands, tmp_path_factory):
    """A pretrained run as transformers and as JAX take it, and the former as a run again."""
    folder = tmp_path_factory.mktemp("exported")
    outcomes = commands(
        ["export", str(pretrained), "--output", str(folder / "huggingface"), "--licence", "CC0"],
        ["export", str(pretrained), "--output", str(folder / "jax"), "--format", "jax"],
        ["import", str(folder / "huggingface"), "--output", str(folder / "again")],
    )
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier's checkpoint with a vocabulary, as a hub gives it."""
    folder = tmp_path_factory.mktemp("hub") / "classifier"
    shutil.copytree(GOLDEN / "classifier", folder)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    return folder


def serve(folder, text, environment):
    command = [sys.executable, str(SERVE), str(folder), text]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)


def test_what_was_exported_comes_back_bitwise(exported, pretrained):
    ours, again = (restore_params(run / CHECKPOINTS) for run in (pretrained, exported / "again"))
    chex.assert_trees_all_equal(again, ours)


def test_a_model_card_has_data_budget_scores_config_and_licence(exported, texts):
    card = (exported / "huggingface" / "README.md").read_text(encoding="utf-8")
    for part in (
        f"Trained on `{texts}`",
        "30 updates in",
        "| loss |",
        "Licence of the inputs: CC0",
        '"hidden_size": 16',
    ):
        assert part in card
    other = (exported / "jax" / "README.md").read_text(encoding="utf-8")
    assert "not stated by who exported it" in other


def test_an_exported_program_fills_masks_without_this_package(exported, environment):
    alone = {**environment, "PYTHONPATH": ""}
    done = serve(exported / "jax", SENTENCE, alone)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\t")) == 5
    imports = [line for line in SERVE.read_text(encoding="utf-8").splitlines() if line.startswith(("import", "from"))]
    assert imports and not any("roformer_jax" in line for line in imports)


def test_a_damaged_program_is_refused_by_its_checksum(exported, environment, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(exported / "jax", folder)
    content = bytearray((folder / "params.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "params.safetensors").write_bytes(content)
    done = serve(folder, SENTENCE, environment)
    assert done.returncode == 1
    assert "params.safetensors is damaged" in done.stderr


def test_an_imported_classifier_predicts_and_is_served_alike(classifier, commands, environment, tmp_path):
    sentences = tmp_path / "sentences.tsv"
    sentences.write_text("text\ncat dog elk\nbolt cog\n", encoding="utf-8")
    run, table, program = tmp_path / "run", tmp_path / "labels.tsv", tmp_path / "program"
    outcomes = commands(
        ["import", str(classifier), "--output", str(run)],
        ["predict", str(run), "--input", str(sentences), "--output", str(table)],
        ["export", str(run), "--output", str(program), "--format", "jax"],
    )
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
    header, first, _ = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
    labels = json.loads((classifier / "config.json").read_text(encoding="utf-8"))["id2label"].values()
    assert header == ["label", *(f"p({name})" for name in labels)]
    command = [sys.executable, "-m", "roformer_jax", "predict", str(run), "--input", "-", "--output", "-"]
    piped = subprocess.run(
        command, input="cat dog elk\nbolt cog\n", capture_output=True, encoding="utf-8", env=environment, cwd=ROOT
    )
    assert piped.stdout == table.read_text(encoding="utf-8")
    assert "2 texts in" in piped.stderr and "texts/s" in piped.stderr
    lines = serve(program, "cat dog elk", environment).stdout.splitlines()
    logits = np.array([float(line.split("\t")[1]) for line in lines])
    expected = np.exp(logits) / np.sum(np.exp(logits))
    np.testing.assert_allclose(np.array(first[1:], float), expected, atol=1e-3)  # logits are printed with 4 decimals


def test_what_cannot_be_imported_is_refused_and_nothing_is_written(commands, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    pickled = tmp_path / "pickled"
    shutil.copytree(GOLDEN / "masked_lm", pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cases = [
        (str(tmp_path / "gone"), "no such file or folder"),
        (str(empty), "config.json: cannot be read"),
        (str(pickled), "is a pickle, which can run any code"),
        (str(GOLDEN / "encoder"), "start from its encoder with --init-from"),
        (str(GOLDEN / "masked_lm"), "holds neither tokenizer.json nor vocab.txt"),
    ]
    run = tmp_path / "run"
    outcomes = commands(*(["import", source, "--output", str(run)] for source, _ in cases))
    for (source, message), outcome in zip(cases, outcomes, strict=True):
        assert outcome.code == 2, source
        assert message in outcome.text
    assert not run.exists()


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(exported, pretrained, commands, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine", encoding="utf-8")
    outcomes = commands(
        ["export", str(tmp_path / "gone"), "--output", str(tmp_path / "new")],
        ["export", str(pretrained), "--output", str(tmp_path / "full")],
        ["export", str(pretrained), "--output", str(tmp_path / "new"), "--format", "onnx"],
    )
    for outcome, message in zip(outcomes, ("is not a run", "is not an empty folder", "onnx"), strict=True):
        assert outcome.code == 2
        assert message in outcome.text
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
