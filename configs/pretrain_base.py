"""The paper's English pretraining (section 4.2): RoFormer base, masked LM on Wikipedia and books.

    python train.py configs/pretrain_base.py --data.path tfds:wikipedia/20230601.en:train

Devices: a TPU slice or several GPUs (the paper used 4 x V100); 3.3 billion tokens.

Stated in the paper: 12 layers x 768 (bert-base-uncased), batch 64, length 512, 100,000 steps, AdamW, learning
rate 1e-5, masked LM, BookCorpus + Wikipedia.
Left open there, and chosen here: masking of 15 % with 80/10/10 (BERT's), no next-sentence prediction, warm-up of 1 %
and linear decay, weight decay 0.01, dropout 0.1, random initial weights, a vocabulary trained on the text. The figure's
axis runs to 250,000 steps where the text says 100,000; BERT itself used a learning rate of 1e-4.
"""

from roformer_jax.models import RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> Pretraining:
    """The paper's sizes."""
    return Pretraining(
        run_dir="runs/pretrain_base",
        model=RoFormerConfig(dtype="bfloat16", remat="dots"),
        data=CorpusConfig(length=512, holdout=0.001),
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup=0.01),
        training=TrainingConfig(batch_size=64, steps=100_000, eval_every=5_000, save_every=1_000),
    )
