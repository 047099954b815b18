"""From a BERT to a RoFormer: its absolute positions go, RoPE comes in, and masked LM mends what that broke.

    python train.py configs/warm_start.py --init-from path/to/bert --data.path my/texts
    python train.py configs/glue.py --task mrpc --folder path/to/glue --init-from runs/warm_start \
        --optimizer.learning-rate 5e-5

`--init-from` is a folder with a Hugging Face checkpoint of BERT, or a run. The authors made their RoFormers from WoBERT
in this way. Printed at the end, and written to `swap.json`: the held-out loss with the old positions, right after the
swap, and at every evaluation. `--init-positions` takes any other position encoding.

Devices: a 6-layer model of width 384 takes under 40 minutes on two CPU cores; larger ones want a GPU or TPU.
"""

from roformer_jax.models import RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> Pretraining:
    """A thousand updates of 16 rows x 128 tokens; the architecture is that of `--init-from`."""
    return Pretraining(
        run_dir="runs/warm_start",
        init_positions="rope",
        model=RoFormerConfig(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1),
        data=CorpusConfig(length=128),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup=0.1),
        training=TrainingConfig(batch_size=16, steps=1_000, eval_every=250, save_every=250),
    )
