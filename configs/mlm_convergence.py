"""Does RoPE make masked-LM pretraining converge faster? Every position encoding, three seeds (the paper's section 4.2).

    python train.py configs/mlm_convergence.py                     # --minutes 60: begin no run after that
    python train.py configs/mlm_convergence.py --cell rope-0       # one run again

The model, text and batches of the quickstart, which a package brings; loss against updates, and how soon RoPE has what
each of the others ends with, go to docs/results.md. The paper's size is configs/pretrain_base.py.
Devices: two CPU cores, some 90 minutes for all 21 runs; a run that is finished is a file in docs/results/mlm.
"""

import dataclasses
from pathlib import Path

from roformer_jax.commands.parsing import load_config
from roformer_jax.comparison import Comparison
from roformer_jax.training.loop import TrainingConfig


def get_config() -> Comparison:
    """Seven encodings, seeds 0, 1, 2."""
    small = load_config(Path(__file__).with_name("quickstart.py")).pretraining
    return Comparison(
        base=dataclasses.replace(
            small,
            run_dir="runs/mlm_convergence",
            training=TrainingConfig(batch_size=16, steps=600, eval_every=100, save_every=150),
        ),
        name="mlm",
        title="Masked-LM pretraining with every position encoding (the paper's section 4.2, small)",
        command="python train.py configs/mlm_convergence.py",
        metric="loss",
        lengths=(256, 512),
        values=("rope", "learned", "sinusoidal", "alibi", "t5", "shaw", "none"),
    )
