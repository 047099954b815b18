"""The paper's Chinese pretraining (section 4.5): RoFormer base on words, six stages of changing length.

    pip install .[train,chinese]
    python train.py configs/pretrain_chinese.py --base.data.path my/texts --base.data.tokenizer path/to/vocab.txt
    python -m roformer_jax plan configs/pretrain_chinese.py --topology v5e:8x8       # the largest stage: 256 x 1,536

Devices: a TPU slice or several GPUs; 56 billion tokens. vocab.txt is that of chinese_roformer_base: 50,000 words, found
by jieba.

Stated in the paper: lengths, batch sizes and updates of the stages (table 4), words as tokens, WoBERT to start from
(`--base.init-from path/to/wobert --base.init-positions rope`), 34 GB of text. Left open there, and taken from the
authors' train.py: AdamW with learning rate 1e-5 and weight decay 0.01; chosen here: a warm-up of 1 % and linear decay
in each stage.
"""

from roformer_jax.models import RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.stages import StagedPretraining
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig


def get_config() -> StagedPretraining:
    """The paper's sizes."""
    return StagedPretraining(
        base=Pretraining(
            run_dir="runs/pretrain_chinese",
            model=RoFormerConfig(vocab_size=50_000, dtype="bfloat16", remat="dots"),
            data=CorpusConfig(holdout=0.001),
            optimizer=OptimizerConfig(learning_rate=1e-5, warmup=0.01),
            training=TrainingConfig(eval_every=5_000, save_every=1_000),
        ),
        lengths=(512, 1536, 256, 128, 1536, 512),
        batch_sizes=(256, 256, 256, 512, 256, 512),
        steps=(200_000, 12_500, 120_000, 80_000, 10_000, 30_000),
    )
