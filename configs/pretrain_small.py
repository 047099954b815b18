"""Masked-LM pretraining of a small RoFormer on any text.

    python train.py configs/pretrain_small.py --data.path my/texts

Devices: made for one GPU or a TPU v5e-1; runs on a CPU, slowly.
"""

from roformer_jax.models import RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> Pretraining:
    """Six layers x 384, rows of 256 tokens."""
    return Pretraining(
        run_dir="runs/pretrain_small",
        model=RoFormerConfig(
            vocab_size=16_384, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536
        ),
        data=CorpusConfig(length=256),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup=0.05),
        training=TrainingConfig(batch_size=64, steps=20_000, eval_every=1_000, save_every=1_000),
    )
