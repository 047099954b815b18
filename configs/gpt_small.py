"""A causal RoFormer (as the authors' RoFormer-GPT) on any text: packed documents, softmax attention.

    python train.py configs/gpt_small.py --data.path my/texts
    python -m roformer_jax generate runs/gpt_small --prompt "The "

Devices: made for one GPU or a TPU v5e-1; runs on a CPU, slowly.
"""

from roformer_jax.language_modelling import DocumentLM
from roformer_jax.models import RoFormerConfig
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> DocumentLM:
    """Six layers x 384, rows of 256 tokens."""
    return DocumentLM(
        run_dir="runs/gpt_small",
        model=RoFormerConfig(
            vocab_size=16_384, hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536
        ),
        data=CorpusConfig(length=256),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup=0.05),
        training=TrainingConfig(batch_size=64, steps=20_000, eval_every=1_000, save_every=1_000),
    )
