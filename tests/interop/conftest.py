"""What transformers saved and computed, and our models, compiled once for each architecture."""

import functools
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from roformer_jax.models import build

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def expected():
    """Inputs and outputs of the golden file."""
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture
def copied(tmp_path):
    """A function that copies a golden checkpoint to a folder that the test may damage."""

    def copy(case):
        return Path(shutil.copytree(GOLDEN / case, tmp_path / "checkpoint"))

    return copy


@functools.cache
def compiled(model, head, outputs):
    """The model's function, so that checkpoints of one architecture share it; quick to compile, not to run."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(build(model, head, outputs).apply, compiler_options=quick)
