"""`python -m roformer_jax`."""

import sys

from roformer_jax.cli import run_process

run_process(sys.argv[1:])
