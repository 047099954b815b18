r"""Fine-tune on any table of labelled texts: CSV, TSV, JSONL with named columns, or a folder of class folders.

    python train.py configs/classify.py --data.path my/reviews.csv --run-dir runs/reviews
    python train.py configs/classify.py --data.path my/pairs.tsv --data.text-columns question answer \
        --data.label-column verdict --init-from runs/pretrain_small --run-dir runs/verdicts

Devices: any.
"""

from roformer_jax.finetuning import Classification
from roformer_jax.models import RoFormerConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> Classification:
    """A small model from scratch, or the architecture of the run it starts from."""
    return Classification(
        run_dir="runs/classify",
        model=RoFormerConfig(
            vocab_size=8192, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=512
        ),
        length=256,
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup=0.1),
        training=TrainingConfig(batch_size=32, epochs=5.0),
    )
