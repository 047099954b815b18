r"""Does RoPE translate better? A small `multi30k_ende` with it, sinusoidal and learned positions, three seeds.

    D=path/to/multi30k
    python train.py configs/multi30k_comparison.py --base.data.source $D/train.en.gz --base.data.target $D/train.de.gz \
        --base.data.heldout-source $D/val.en.gz --base.data.heldout-target $D/val.de.gz \
        --base.data.test-source $D/test_2016_flickr.en.gz path/to/newstest2014.en.gz \
        --base.data.test-target $D/test_2016_flickr.de.gz path/to/newstest2014.de.gz

The paper's section 4.1 compares RoPE with sinusoidal positions, one run each. newstest2014 is news, out of the domain
of captions, and its sentences are longer. Loss and BLEU go to docs/results.md.
Devices: two CPU cores; made for some 100 minutes on them, not measured yet. An interrupted comparison goes on where it
stopped.
"""

import dataclasses
from pathlib import Path

from roformer_jax.commands.parsing import load_config
from roformer_jax.tasks.parallel_corpus import PairsConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig
from roformer_jax.translation_comparison import TranslationComparison


def get_config() -> TranslationComparison:
    """Two layers x 128 on either side, a joint vocabulary of 4,000; seeds 0, 1, 2."""
    large = load_config(Path(__file__).with_name("multi30k_ende.py"))
    model = dataclasses.replace(large.model, vocab_size=4_000, hidden_size=128, num_hidden_layers=2, unroll=2)
    return TranslationComparison(
        base=dataclasses.replace(
            large,
            run_dir="runs/multi30k_comparison",
            model=model,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup=400.0, schedule="inverse_sqrt", b2=0.98),
            data=PairsConfig(length=128),  # one caption is longer than 64 tokens of this vocabulary
            training=TrainingConfig(batch_size=8, steps=2_600, eval_every=650, save_every=130, keep=5),
        ),
        name="multi30k",
        title="English captions into German (the paper's section 4.1, small)",
        command="python train.py configs/multi30k_comparison.py",
        metric="nats_per_token",
        values=("rope", "sinusoidal", "learned"),
        out_of_domain=("newstest2014",),
    )
