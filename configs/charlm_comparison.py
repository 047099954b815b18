"""Does RoPE help a Performer? `charlm_small` with it and without, three seeds each: bits per byte in docs/results.md.

    pip install --no-deps gensim
    python train.py configs/charlm_comparison.py

Devices: two CPU cores, under an hour; an interrupted comparison goes on where it stopped.
"""

import dataclasses
from pathlib import Path

from roformer_jax.commands.parsing import load_config
from roformer_jax.comparison import Comparison

RUNS = "runs/charlm_comparison"
TITLE = "Bytes of Wikipedia with linear attention, with RoPE and without (the paper's section 4.4, small)"


def get_config() -> Comparison:
    """Rotary positions against none, seeds 0, 1, 2."""
    return Comparison(
        base=dataclasses.replace(load_config(Path(__file__).with_name("charlm_small.py")), run_dir=RUNS),
        name="charlm",
        title=TITLE,
        command="python train.py configs/charlm_comparison.py",
        metric="bits_per_byte",
    )
