"""The Performer experiment of the paper (section 4.4) at its size: bytes of enwik8, linear attention with RoPE.

    python train.py configs/enwik8_performer.py --data.path enwik8.gz

Without RoPE, for the comparison: --model.position-encoding none --run-dir runs/enwik8_performer_none

enwik8 is the first 100 MB of a Wikipedia dump of 2006 (http://mattmahoney.net/dc/enwik8.zip, unpacked, .gz or .bz2).
Trained on the first 90 MB, measured on the next 5 MB, as the code base that the paper used does; 12 layers x 768, 12
heads, rows of 1,024 bytes, batches of 128, learning rate 1e-4, 100,000 updates. The paper does not say its feature map
or optimiser: elu + 1 (equation 18) and AdamW here.
Devices: made for a TPU v5e-8 or eight GPUs (--mesh.fsdp 8 shards the parameters); more microbatches fit fewer devices.
"""

from roformer_jax.language_modelling import ByteLM
from roformer_jax.models import RoFormerConfig
from roformer_jax.tasks.corpus import StreamConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> ByteLM:
    """Twelve layers x 768 of causal linear attention, rows of 1,024 bytes."""
    return ByteLM(
        run_dir="runs/enwik8_performer",
        model=RoFormerConfig(
            vocab_size=261,
            type_vocab_size=0,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            attention_probs_dropout_prob=0.0,
            attention="linear",
            dtype="bfloat16",
        ),
        data=StreamConfig(first_bytes=95_000_000, length=1024, holdout=5 / 95),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=0.01),
        training=TrainingConfig(batch_size=128, steps=100_000, eval_every=5_000, save_every=1_000),
    )
