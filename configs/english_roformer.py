"""The first English RoFormer: base size, masked LM on Wikipedia, for whoever has a grant of TPUs.

    tpu_setup/resume.sh pod --type v5litepod-16 --zone us-west4-a --bucket BUCKET -- configs/english_roformer.py \
        --run-dir /mnt/BUCKET/runs/english_roformer --cache-dir /mnt/BUCKET/cache \
        --data.path tfds:/mnt/BUCKET/tensorflow_datasets/wikipedia/20230601.en/1.0.0:train

Devices: 16 chips of a TPU v5e, or any other slice that `plan` finds large enough.

Where it differs from `pretrain_base`, the paper's: four times the batch, for 16 chips; a learning rate of 2e-4 with a
warm-up of 10,000 updates instead of 1e-5, which is a rate for weights that are trained already; whole words masked. No
published model stands behind these choices. The whole recipe, cost and evaluation included: docs/english_roformer.md.
"""

import dataclasses
from pathlib import Path

from roformer_jax.commands.parsing import load_config
from roformer_jax.data.masking import MaskingConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> Pretraining:
    """12 layers x 768; 250,000 updates of 256 rows x 512 tokens: 33 billion tokens."""
    return dataclasses.replace(
        load_config(Path(__file__).with_name("pretrain_base.py")),
        run_dir="runs/english_roformer",
        masking=MaskingConfig(whole_word=True),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup=10_000.0, schedule="linear", b2=0.98),
        training=TrainingConfig(batch_size=256, steps=250_000, eval_every=5_000, save_every=1_000, spike_sigmas=6.0),
    )
