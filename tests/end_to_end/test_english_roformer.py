"""The recipe of docs/english_roformer.md, rehearsed small: pretrained through a preemption, evaluated, given away."""

import os
import signal
import subprocess
import sys
import time

import pytest

from roformer_jax.run_folder import read_json
from roformer_jax.training.writer import read_metrics
from tests.end_to_end.conftest import ROOT, TINY_MODEL, sentence

ANIMALS = "ape bat cat dog elk fox gnu hen".split()
STEPS = 60


@pytest.fixture(scope="module")
def rte(tmp_path_factory):
    """A GLUE task of few rows, in its official form."""
    folder = tmp_path_factory.mktemp("glue")
    for split, rows in {"train": 24, "dev": 8}.items():
        lines = [
            f"{i}\t{sentence(i, ANIMALS)}\t{sentence(i + 1, ANIMALS)}\t{'not_' * (i % 2)}entailment"
            for i in range(rows)
        ]
        (folder / f"{split}.tsv").write_text(
            "\n".join(["index\tsentence1\tsentence2\tlabel", *lines]), encoding="utf-8"
        )
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, environment, process, commands, texts, rte):
    """The run of the config, preempted as soon as it has a checkpoint and started again; and what follows it."""
    root = tmp_path_factory.mktemp("recipe")
    run, cache = str(root / "english_roformer"), ["--cache-dir", str(root / "cache")]
    pretrain = [
        *["configs/english_roformer.py", "--run-dir", run, *cache, *TINY_MODEL, "--data.path", str(texts)],
        *[
            "--data.length",
            "32",
            "--data.holdout",
            "0.2",
            "--optimizer.warmup",
            "0.1",
            "--optimizer.learning-rate",
            "1e-2",
        ],
        *["--training.batch-size", "8", "--training.steps", str(STEPS)],
        *["--training.eval-every", "20", "--training.save-every", "5"],
    ]
    preempted = preempt([sys.executable, "train.py", *pretrain], environment, root / "english_roformer" / "checkpoints")
    resumed = process("train.py", *pretrain)
    glue = ["train", "configs/glue.py", "--task", "rte", "--folder", str(rte), "--init-from", run, "--length", "64"]
    glue += [*cache, "--run-dir", str(root / "rte"), "--training.epochs", "1", "--training.batch-size", "8"]
    after = commands(
        ["evaluate", run], glue, ["export", run, "--output", str(root / "model"), "--licence", "CC BY-SA 4.0"]
    )
    return root, preempted, resumed, after


def preempt(command, environment, checkpoints):
    """Starts a run and, once its first checkpoint is there, sends it what a machine that is taken away sends."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as started:
        deadline = time.monotonic() + 300
        while not (checkpoints / "5").exists() and started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(started.pid, signal.SIGTERM)
        text = started.communicate(timeout=300)[0].decode()
    return started.returncode, text


def test_a_preempted_run_goes_on_and_makes_every_update_once(recipe):
    root, (code, text), resumed, _ = recipe
    assert code == 75 and "run the same command again to go on" in text
    assert resumed.code == 0 and "continues after update" in resumed.out
    rows = read_metrics(root / "english_roformer")
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert rows[-1]["kind"] == "eval" and rows[-1]["loss"] < rows[0]["loss"] - 1, "nothing was learnt"


def test_it_is_evaluated_fine_tuned_and_exported_with_a_card(recipe):
    root, _, _, (evaluated, tuned, exported) = recipe
    assert (evaluated.code, tuned.code, exported.code) == (0, 0, 0), evaluated.err + tuned.err + exported.err
    results = read_json(root / "english_roformer" / "results.json")
    assert f"{results['metrics']['loss']:.4f}" in evaluated.out
    assert set(read_json(root / "rte" / "results.json")["metrics"]) == {"loss", "accuracy"}
    card = (root / "model" / "README.md").read_text(encoding="utf-8")
    assert "A RoFormer (masked lm, rope positions)" in card and "Licence of the inputs: CC BY-SA 4.0." in card
    assert f"{STEPS} updates in" in card
    assert (root / "model" / "model.safetensors").exists()
