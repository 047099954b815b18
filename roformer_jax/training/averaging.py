"""The mean of a run's last checkpoints, on the host (Vaswani et al. 2017, section 6.1)."""

from pathlib import Path

import jax
import numpy as np

from roformer_jax.training.checkpoint import restore_params
from roformer_jax.training.step_folders import steps_in
from roformer_jax.typing import PyTree


def average_newest(folder: Path, count: int) -> PyTree:
    """The mean of the parameters of the newest `count` checkpoints, or of all where there are fewer.

    Summed in float64 and rounded to float32 once; one checkpoint is in memory at a time, beside the sum.

    Args:
        folder: of the checkpoints of a run.
        count: how many; 1 takes the newest that is not damaged, as it is.

    Raises:
        InputError: there is no checkpoint.
        DamagedError: one of them is damaged; with `count` 1, all are.
    """
    steps = sorted(steps_in(folder))[-count:]
    if count == 1 or not steps:
        return restore_params(folder)
    total = None
    for step in steps:
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), restore_params(folder, step))
        total = params if total is None else jax.tree.map(np.add, total, params)
    return jax.tree.map(lambda leaf: (leaf / len(steps)).astype(np.float32), total)
