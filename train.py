"""Run the experiment of a config file: `python train.py configs/quickstart.py [--field.name value ...]`.

The same as `python -m roformer_jax train ...`; run the command again to continue where the run stands.
"""

import sys

from roformer_jax.cli import run_process

if __name__ == "__main__":
    run_process(["train", *sys.argv[1:]])
