"""Pretraining through `python train.py`: what a run writes, and what it does when it is called again."""

import json

import numpy as np
import pytest

from roformer_jax.data.rows import RowStore
from roformer_jax.data.tokenizer import load_tokenizer
from roformer_jax.training.writer import read_metrics


def of_kind(run, kind):
    return [line for line in read_metrics(run) if line["kind"] == kind]


def test_metrics_hold_every_update_once_and_evaluations_where_they_were_asked_for(pretrained):
    assert [line["step"] for line in of_kind(pretrained, "train")] == list(range(1, 31))
    assert [line["step"] for line in of_kind(pretrained, "eval")] == [8, 16, 24, 30]


def test_the_run_folder_holds_all_that_the_run_is(pretrained):
    files = {path.name for path in pretrained.iterdir()}
    (events,) = (name for name in files if name.startswith("events.out.tfevents"))
    named = {"config.json", "data.json", "tokenizer.json", "metrics.jsonl", "results.json", "checkpoints", "lock"}
    assert files == named | {events}
    assert sorted(path.name for path in (pretrained / "checkpoints").iterdir()) == ["20", "30"]
    config = json.loads((pretrained / "config.json").read_text(encoding="utf-8"))
    assert config["experiment"] == "Pretraining"
    assert config["model"]["hidden_size"] == 16
    assert load_tokenizer(pretrained).vocab_size <= 120


def test_results_are_those_of_the_last_evaluation(pretrained):
    results = json.loads((pretrained / "results.json").read_text(encoding="utf-8"))
    last = of_kind(pretrained, "eval")[-1]
    assert results["step"] == 30
    assert results["metrics"] == {name: last[name] for name in ("loss", "accuracy", "unigram_loss")}


def test_the_loss_on_held_out_text_falls(pretrained):
    """From that of a uniform guess (ln of the vocabulary) to that of the token frequencies, at the least."""
    first, last = of_kind(pretrained, "train")[0], of_kind(pretrained, "eval")[-1]
    vocabulary = load_tokenizer(pretrained).vocab_size
    assert first["loss"] == pytest.approx(np.log(vocabulary), rel=0.1)
    assert last["loss"] < 0.8 * first["loss"]


def test_special_tokens_written_in_a_text_stay_text(pretrained, cache):
    tokenizer = load_tokenizer(pretrained)
    data = json.loads((pretrained / "data.json").read_text(encoding="utf-8"))
    (word,) = tokenizer.encode(["["])
    with RowStore(cache / data["train"][:16], data["train"]) as store:
        rows = [store[i] for i in range(len(store))]
    ids, segments = (np.stack([row[name] for row in rows]) for name in ("ids", "segment_ids"))
    assert np.isin(ids, word).sum() > 0, "no literal bracket: the test would show nothing"
    assert not np.any(ids == tokenizer.mask_id)
    pieces = segments.max(axis=1)
    np.testing.assert_array_equal((ids == tokenizer.cls_id).sum(axis=1), pieces)
    np.testing.assert_array_equal((ids == tokenizer.sep_id).sum(axis=1), pieces)


def test_the_same_command_again_says_that_the_run_is_complete_and_changes_nothing(
    pretrained, process, pretraining_flags, files
):
    before = files(pretrained)
    outcome = process("train.py", "configs/pretrain_small.py", *pretraining_flags(pretrained, steps=30))
    assert outcome.code == 0, outcome.err
    assert "complete" in outcome.out
    assert files(pretrained) == before
