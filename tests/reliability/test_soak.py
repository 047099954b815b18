"""A long run needs no more at its end than at its start: memory, open files, threads and compiled programs."""

import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from tests.end_to_end.conftest import ROOT

# What the process has of each when an update is about to be handed out: kB of memory, open files, threads.
SAMPLE = (
    "memory = int(Path('/proc/self/status').read_text().split('VmRSS:')[1].split()[0])",
    "counts = [len(os.listdir(f'/proc/self/{kind}')) for kind in ('fd', 'task')]",
    "with open(os.environ['SAMPLES'], 'a') as file: print(memory, *counts, file=file)",
)
SAVE_EVERY = 10
GROWTH = 0.05  # of memory, after the first quarter
COMPILING = re.compile(r"Compiling (\S+) with global shapes and types (.+?)\. Argument mapping")


@pytest.fixture(scope="module")
def soaked(tmp_path_factory, environment, tiny_run, watched, count):
    """The samples [updates, 3] of a run, and what it compiled."""
    folder = tmp_path_factory.mktemp("soak")
    flags = ["--training.save-every", str(SAVE_EVERY), "--training.eval-every", "50"]
    command = ["train.py", *tiny_run(folder / "run", *flags, steps=count(300, 2000), config=watched(*SAMPLE))]
    more = {"SAMPLES": str(folder / "samples"), "JAX_LOG_COMPILES": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment | more, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return np.loadtxt(folder / "samples", dtype=int), done.stderr


@pytest.mark.timeout(1500)
def test_memory_files_and_threads_stay_flat(soaked, count):
    """Saves of TensorStore 0.1.86 leave some kB each behind (lists that its `to_json` made): that alone grows."""
    samples, _ = soaked
    steps = len(samples)
    assert steps == count(300, 2000)
    first, second, _, last = np.split(samples, 4)
    assert last[:, 0].max() <= (1 + GROWTH) * first[:, 0].max()
    # The fewest, because files and threads come and go with each save; one left behind by every fifth save would show.
    saves = (steps // 2) // SAVE_EVERY
    assert np.all(last[:, 1:].min(axis=0) - second[:, 1:].min(axis=0) < saves / 5)


def test_every_program_is_compiled_once_for_each_shape(soaked):
    _, error = soaked
    found = Counter(COMPILING.findall(error))
    names = [name for name, _ in found]
    for step in ("train_step", "eval_step"):
        assert names.count(f"jit({step})") == 1, "else the compiler speaks in other words"
    assert set(found.values()) == {1}, found
