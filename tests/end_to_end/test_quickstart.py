"""The quickstart to its report, with the articles that it ships and models too small to learn anything."""

import re

from roformer_jax.run_folder import read_json


def test_the_quickstart_ends_with_a_report_of_what_it_measured(process, tmp_path):
    model = ["hidden-size", "16", "num-hidden-layers", "1", "num-attention-heads", "2", "intermediate-size", "32"]
    outcome = process(
        *["train.py", "configs/quickstart.py", "--pretraining.model.vocab-size", "500"],
        *(f"--pretraining.model.{word}" if word.isalpha() or "-" in word else word for word in model),
        *["--pretraining.run-dir", str(tmp_path / "runs"), "--finetuning.run-dir", str(tmp_path / "articles")],
        *["--pretraining.cache-dir", str(tmp_path / "cache"), "--finetuning.cache-dir", str(tmp_path / "cache")],
        *["--pretraining.training.steps", "2", "--pretraining.training.batch-size", "128"],
        *["--pretraining.data.holdout", "0.02"],
        *["--report", str(tmp_path / "reports" / "report.html")],
        *["--finetuning.training.epochs", "0.02", "--finetuning.length", "128"],
    )
    assert outcome.code == 0, outcome.err
    report = (tmp_path / "reports" / "report.html").read_text(encoding="utf-8")
    losses = [read_json(tmp_path / "runs" / name / "results.json")["metrics"] for name in ("rope", "learned")]
    text = re.sub(r"<[^>]+>", "", report)
    assert all(f"{loss['loss']:.3f}" in text for loss in losses)
    assert f"{losses[0]['unigram_loss']:.3f}" in text, "what guessing by frequency costs"
    assert "429" in text and "TF-IDF" in text
