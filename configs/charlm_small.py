"""A byte-level Performer on Wikipedia XML, with RoPE or without: the paper's section 4.4 at a size for two cores.

    pip install --no-deps gensim
    python train.py configs/charlm_small.py
    python train.py configs/charlm_small.py --model.position-encoding none --run-dir runs/charlm_small_none

The text is the head of an English Wikipedia dump that the package gensim ships for its tests (6 MB of the same kind of
bytes as enwik8); any file will do: --data.path my/file.
Devices: two CPU cores, some minutes; or anything larger.
"""

from roformer_jax.language_modelling import ByteLM
from roformer_jax.models import RoFormerConfig
from roformer_jax.tasks.corpus import StreamConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig

WIKIPEDIA = "package:gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


def get_config() -> ByteLM:
    """Four layers x 128 of causal linear attention, rows of 256 bytes."""
    return ByteLM(
        run_dir="runs/charlm_small",
        model=RoFormerConfig(
            vocab_size=261,
            type_vocab_size=0,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attention="linear",
        ),
        data=StreamConfig(path=WIKIPEDIA, length=256, holdout=0.02),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=0.1),
        training=TrainingConfig(batch_size=8, steps=1_000, eval_every=100, save_every=500),
    )
