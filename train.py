"""Run the experiment of a config file: `python train.py configs/quickstart.py [--field.name value ...]`.

The same as `python -m roformer_jax train ...`; run the command again to continue where the run stands.
"""

import sys

from roformer_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
