"""A comparison of translators says the BLEU of every test, and which of them is out of the domain."""

from roformer_jax.comparison import Run
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.translation import Translation
from roformer_jax.translation_comparison import TranslationComparison


def test_the_section_has_a_row_of_bleu_for_every_encoding(tmp_path):
    comparison = TranslationComparison(
        base=Translation(run_dir=str(tmp_path), training=TrainingConfig(steps=20, keep=5)),
        name="captions",
        title="Captions",
        command="python train.py captions.py",
        metric="nats_per_token",
        values=("rope", "learned", "none"),
        seeds=(0, 1),
        out_of_domain=("news",),
    )
    cells = {}
    for i, run in enumerate([Run("rope", 0), Run("rope", 1), Run("learned", 0), Run("learned", 1)]):
        scores = {"flickr": 30.0 + i, "news": 5.0 + i}
        cells[run] = {"bleu": {name: {"bleu": bleu, "signature": "tok:13a"} for name, bleu in scores.items()}}
    assert comparison.more_lines(cells) == [
        "",
        "| BLEU (larger is better) | flickr | news, out of domain |",
        "| --- | --- | --- |",
        "| rope | 30.500 ± 0.707 | 5.500 ± 0.707 |",
        "| learned | 32.500 ± 0.707 | 7.500 ± 0.707 |",
        "",
        "Beam 4, length penalty 0.6, sacrebleu tok:13a.",
    ]
