"""Fine-tuning a pretrained run on a table, evaluating it again, and predicting with it."""

import csv
import json
import shutil

import numpy as np
import pytest

from roformer_jax.run_folder import read_json

REFUSED = {  # command -> what its message says
    "predict pretrained": "pretrained is a Pretraining run; predict needs a fine-tuned one",
    "predict nothing": "name the texts to predict: --input FILE",
    "predict without text": "all.csv.gz: no such file",
    "predict into a folder": "is a folder; with --input, name the TSV file to write",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, labelled):
    """The texts in order as CSV, in reverse as TSV, and the first five of them as JSONL."""
    folder = tmp_path_factory.mktemp("inputs")
    texts = [row["text"] for row in labelled]
    with (folder / "all.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    lines = "\n".join(["text\tid", *(f"{text}\tx" for text in reversed(texts))])
    (folder / "reversed.tsv").write_text(lines + "\n", encoding="utf-8")
    (folder / "five.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:5]))
    return folder


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, commands, tiny_classifier, tiny_model, pretrained, inputs):
    """What every command of this file did, by its name, and the folder it was done in."""
    folder = tmp_path_factory.mktemp("finetuning")
    classes, scores = folder / "classes", folder / "scores"

    def predict(run, file):
        return ["predict", str(run), "--input", str(inputs / file), "--output", str(folder / f"{run.name}-{file}")]

    all_commands = {
        "fine-tune": tiny_classifier(classes, "--init-from", str(pretrained)),
        "evaluate": ["evaluate", str(classes)],
        "predict all": predict(classes, "all.csv"),
        "predict reversed": predict(classes, "reversed.tsv"),
        "predict five": predict(classes, "five.jsonl"),
        "regression": tiny_classifier(scores, *tiny_model, "--data.regression", "True", "--data.label-column", "score"),
        "predict scores": predict(scores, "all.csv"),
        "evaluate pretrained": ["evaluate", str(pretrained)],
        "predict pretrained": predict(pretrained, "all.csv"),
        "predict nothing": ["predict", str(classes), "--output", str(folder / "nothing")],
        "predict without text": ["predict", str(classes), "--input", str(inputs / "all.csv.gz"), "--output", "x"],
        "predict into a folder": ["predict", str(classes), "--input", str(inputs / "all.csv"), "--output", str(folder)],
    }
    done = commands(*all_commands.values())
    return folder, dict(zip(all_commands, done, strict=True))


def predictions(folder, name):
    """The header, the labels, and the probabilities float[rows, classes] of a prediction file."""
    header, *rows = (line.split("\t") for line in (folder / name).read_text(encoding="utf-8").splitlines())
    return header, [row[0] for row in rows], np.array([row[1:] for row in rows], float)


def test_every_command_that_should_succeed_does(outcomes):
    _, done = outcomes
    assert {name: outcome.err for name, outcome in done.items() if outcome.code != 0 and name not in REFUSED} == {}


def test_fine_tuning_says_what_it_took_from_the_pretrained_run(outcomes, pretrained):
    _, done = outcomes
    report = done["fine-tune"].out.partition(f"parameters from {pretrained}:")[2].splitlines()[1:4]
    loaded, new, unused = (" ".join(line.split()) for line in report)
    assert loaded.startswith("loaded") and loaded.endswith("encoder.blocks, encoder.embeddings")
    assert new.startswith("new") and "head.output" in new and "encoder" not in new
    assert unused.startswith("unused") and "head" in unused and "encoder" not in unused


def test_architecture_and_tokenizer_are_the_pretrained_run_s(outcomes, pretrained):
    folder, _ = outcomes
    before, after = (read_json(run / "config.json")["model"] for run in (pretrained, folder / "classes"))
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert {name: after[name] for name in sizes} == {name: before[name] for name in sizes}
    assert after["hidden_size"] == 16, "configs/classify.py would have had 128"
    assert (folder / "classes" / "tokenizer.json").read_bytes() == (pretrained / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("kind", ["fine-tuned", "pretrained"])
def test_evaluate_prints_the_metrics_of_the_results(outcomes, pretrained, kind):
    folder, done = outcomes
    run, command = (folder / "classes", "evaluate") if kind == "fine-tuned" else (pretrained, "evaluate pretrained")
    expected = {name: round(value, 4) for name, value in read_json(run / "results.json")["metrics"].items()}
    assert done[command].metrics == expected
    assert set(expected) == ({"loss", "accuracy"} if kind == "fine-tuned" else {"loss", "accuracy", "unigram_loss"})


def test_a_run_is_evaluated_without_what_it_started_from_and_on_other_devices(outcomes, here, tmp_path):
    """Four decimals are printed, and eight devices add in another order than one."""
    run = shutil.copytree(outcomes[0] / "classes", tmp_path / "moved")
    (run / "config.json").write_text(json.dumps(read_json(run / "config.json") | {"init_from": "runs/gone"}))
    outcome = here("evaluate", str(run))
    assert outcome.code == 0, outcome.err
    expected = read_json(run / "results.json")["metrics"]
    assert outcome.metrics == pytest.approx(expected, abs=1e-4)


def test_predictions_are_one_row_an_input_with_probabilities_that_sum_to_one(outcomes):
    header, labels, table = predictions(outcomes[0], "classes-all.csv")
    assert header == ["label", "p(animal)", "p(tool)"]
    assert table.shape == (60, 2)
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=2e-6)  # six decimals are written
    assert labels == [("animal", "tool")[i] for i in np.argmax(table, axis=1)]


def test_predictions_are_in_the_order_of_the_input_whatever_its_format(outcomes):
    """A text packed among others has the outputs it has elsewhere, to float32 rounding and six written decimals."""
    _, _, table = predictions(outcomes[0], "classes-all.csv")
    assert len(np.unique(table[:, 0])) > 10, "too few different outputs to tell the order"
    np.testing.assert_allclose(predictions(outcomes[0], "classes-reversed.tsv")[2], table[::-1], atol=1e-5)
    np.testing.assert_allclose(predictions(outcomes[0], "classes-five.jsonl")[2], table[:5], atol=1e-5)


def test_a_regression_is_scored_by_correlations_and_predicts_scores(outcomes):
    folder, _ = outcomes
    assert set(read_json(folder / "scores" / "results.json")["metrics"]) == {"loss", "pearson", "spearman"}
    header, scores, _ = predictions(folder, "scores-all.csv")
    assert header == ["score"]
    assert np.isfinite(np.array(scores, float)).all() and len(scores) == 60


@pytest.mark.parametrize("command", REFUSED)
def test_what_cannot_be_predicted_is_refused_and_nothing_written(outcomes, command):
    folder, done = outcomes
    assert (done[command].code, done[command].out) == (2, "")
    assert REFUSED[command] in done[command].err
    assert {path.name for path in folder.iterdir()} == {
        *["classes", "scores", "scores-all.csv"],
        *[f"classes-{name}" for name in ("all.csv", "reversed.tsv", "five.jsonl")],
    }
