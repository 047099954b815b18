"""`python -m roformer_jax`."""

import sys

from roformer_jax.cli import main

sys.exit(main())
