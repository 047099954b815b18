r"""English captions into German: an encoder-decoder RoFormer on Multi30k, the paper's section 4.1 small.

    python train.py configs/multi30k_ende.py --data.source path/to/multi30k/train.en.gz \
        --data.target path/to/multi30k/train.de.gz --data.heldout-source path/to/multi30k/val.en.gz \
        --data.heldout-target path/to/multi30k/val.de.gz --data.test-source path/to/multi30k/test_2016_flickr.en.gz \
        --data.test-target path/to/multi30k/test_2016_flickr.de.gz
    python -m roformer_jax translate runs/multi30k_ende --input my.en --output my.de

The files are those of data/task1/raw in https://github.com/multi30k/dataset (research use); any two line-aligned files
will do, plain or .gz.
Devices: two CPU cores, 32 minutes.
Score: 38.1 BLEU on test 2016 (sacrebleu, tok:13a, case:mixed).
"""

from roformer_jax.models import RoFormerConfig
from roformer_jax.tasks.parallel_corpus import PairsConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig
from roformer_jax.translation import Translation


def get_config() -> Translation:
    """Three layers x 256 on either side, a joint vocabulary of 8,000, rows of 64 tokens."""
    return Translation(
        run_dir="runs/multi30k_ende",
        model=RoFormerConfig(
            vocab_size=8_000,
            hidden_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=512,
            hidden_act="relu",
            attention_probs_dropout_prob=0.0,
            unroll=3,
        ),
        data=PairsConfig(length=64),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=400.0, schedule="inverse_sqrt", b2=0.98),
        training=TrainingConfig(batch_size=16, steps=2_800, eval_every=400, save_every=100, keep=5),
    )
