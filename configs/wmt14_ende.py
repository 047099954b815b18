r"""Machine translation at the paper's size (section 4.1): WMT14 English-German, 6 + 6 layers x 512.

    python train.py configs/wmt14_ende.py --data.source path/to/train.en --data.target path/to/train.de \
        --data.heldout-source path/to/newstest2013.en --data.heldout-target path/to/newstest2013.de \
        --data.test-source path/to/newstest2014.en --data.test-target path/to/newstest2014.de
    python -m roformer_jax plan configs/wmt14_ende.py --topology v5e:2x4

With sinusoidal positions, the paper's baseline: --model.position-encoding sinusoidal --run-dir runs/wmt14_sinusoidal

Line-aligned text files, plain or .gz, as WMT gives them out (about 4.5 million pairs); a data set of TFDS
(wmt14_translate/de-en) is to be written out as two files first.
The paper says: joint byte-pair encoding of 37,000, Adam (0.9, 0.98), a learning rate rising to 5e-4 and then falling
with the inverse square root, label smoothing 0.1, the mean of the last 5 checkpoints, beam 4, length penalty 0.6. It
reports 27.5 BLEU, 27.3 with sinusoidal positions, and does not say batch, warm-up or updates: 4,000 updates of warm-up
and 100,000 of some 32,000 target tokens here (Vaswani et al. 2017: 25,000 tokens). No run of it has been made yet.
Devices: made for a TPU v5e-8 or eight GPUs; more microbatches fit fewer devices.
"""

from roformer_jax.models import RoFormerConfig
from roformer_jax.tasks.parallel_corpus import PairsConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig
from roformer_jax.translation import Translation


def get_config() -> Translation:
    """Six layers x 512 on either side, a joint vocabulary of 37,000, rows of 256 tokens."""
    return Translation(
        run_dir="runs/wmt14_ende",
        model=RoFormerConfig(
            vocab_size=37_000,
            hidden_size=512,
            num_hidden_layers=6,
            num_attention_heads=8,
            intermediate_size=2048,
            hidden_act="relu",
            attention_probs_dropout_prob=0.0,
            dtype="bfloat16",
        ),
        data=PairsConfig(length=256, too_long="drop"),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup=4_000.0, schedule="inverse_sqrt", b2=0.98),
        training=TrainingConfig(batch_size=128, steps=100_000, eval_every=2_000, save_every=1_500, keep=5),
    )
