"""A comparison of translators says the BLEU of every test, and which of them is out of the domain."""

import json

from roformer_jax.tasks.parallel_corpus import PairsConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.translation import Translation
from roformer_jax.translation_comparison import TranslationComparison


def test_the_section_has_a_row_of_bleu_for_every_encoding(tmp_path):
    data = PairsConfig(test_source=("x/captions.en.gz", "x/news.en"), test_target=("x/captions.de.gz", "x/news.de"))
    comparison = TranslationComparison(
        base=Translation(run_dir=str(tmp_path), data=data, training=TrainingConfig(steps=20, keep=5)),
        name="captions",
        title="Captions",
        command="python train.py captions.py",
        metric="nats_per_token",
        encodings=("rope", "learned"),
        seeds=(0, 1),
        out_of_domain=("news",),
    )
    for i, (encoding, seed) in enumerate([("rope", 0), ("rope", 1), ("learned", 0), ("learned", 1)]):
        scores = {
            name: {"bleu": bleu + i, "signature": "tok:13a"} for name, bleu in [("captions", 30.0), ("news", 5.0)]
        }
        folder = tmp_path / f"{encoding}-{seed}"
        folder.mkdir()
        (folder / "bleu.json").write_text(json.dumps(scores), encoding="utf-8")
    assert comparison.more_lines() == [
        "",
        "| BLEU (larger is better) | captions | news, out of domain |",
        "| --- | --- | --- |",
        "| rope | 30.500 ± 0.707 | 5.500 ± 0.707 |",
        "| learned | 32.500 ± 0.707 | 7.500 ± 0.707 |",
        "",
        "Beam 4, length penalty 0.6, sacrebleu tok:13a.",
    ]
