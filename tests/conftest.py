"""Tests run with eight host devices, no silent rank promotion, warnings as errors, and quickly compiled programs.

Programs of tests compile longer than they run. JAX_DISABLE_MOST_OPTIMIZATIONS=0 compiles them as users have them, as
CI's second lane does; the processes that tests start inherit it.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

# Later versions of JAX do not know the flag.
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0" and jax.__version_info__ < (0, 11):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
