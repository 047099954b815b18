"""A run that a signal or a kill ended, and the same command took up again, is bitwise the run that nothing ended."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from roformer_jax.trained import load_experiment
from roformer_jax.training.checkpoint import Checkpoints, restore_params
from roformer_jax.training.optimizer import make_optimizer
from roformer_jax.training.state import abstract, create_state
from roformer_jax.training.writer import FILE, read_metrics

ROOT = Path(__file__).parents[2]
STEPS = 16
# The shipped experiment, with something to be done before the batch of each update is handed out.
CONFIG = '''
import os, signal, time
from roformer_jax import pretraining
from configs.pretrain_small import get_config as shipped

class Pretraining(pretraining.Pretraining):
    """Masked-LM pretraining."""

    def prepare(self, mesh):
        task = super().prepare(mesh)
        iterate = task.batches.iterate

        def watched(start, stop):
            for update, batch in enumerate(iterate(start, stop), start + 1):
                {action}
                yield batch

        task.batches.iterate = watched
        return task

def get_config():
    return Pretraining(**vars(shipped()))
'''


def bits(run):
    """The bytes of every array of the newest checkpoint: parameters, optimizer state and step."""
    folder = run / "checkpoints"
    params = jax.device_put(restore_params(folder))
    optimizer = make_optimizer(load_experiment(run).optimizer, STEPS, params)
    with Checkpoints(folder) as checkpoints:
        state = checkpoints.restore_newest(abstract(create_state(params, optimizer)))
    return jax.tree.map(lambda leaf: np.frombuffer(np.asarray(leaf).tobytes(), np.uint8), state)


def without_times(run):
    times = {"seconds", "tokens_per_second", "tokens_per_second_per_device", "model_tflops", "data_wait_seconds"}
    return [{k: v for k, v in line.items() if k not in times} for line in read_metrics(run)]


def assert_same_run(run, reference):
    chex.assert_trees_all_equal(bits(run), bits(reference))
    assert without_times(run) == without_times(reference)
    assert [line["step"] for line in read_metrics(run) if line["kind"] == "train"] == list(range(1, STEPS + 1))
    results = [json.loads((folder / "results.json").read_text())["metrics"] for folder in (run, reference)]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def arguments(pretraining_flags):
    """`arguments(config, run, ...)` of `train`."""
    return lambda config, run, *more: [str(config), *pretraining_flags(run, steps=STEPS), *more]


def stops(pretrained, cache):
    """After the second update, after the seventh, and at the end of the first epoch."""
    fingerprint = json.loads((pretrained / "data.json").read_text(encoding="utf-8"))["train"]
    metadata = json.loads((cache / fingerprint[:16] / "metadata.json").read_text(encoding="utf-8"))
    epoch = -(-metadata["rows"] // 8)
    assert 7 < epoch < STEPS
    return {"second": 2, "seventh": 7, "epoch": epoch}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, commands, arguments, pretrained, cache):
    """Runs in one process: undisturbed, of another seed, and stopped by SIGTERM at three places, then taken up again.

    Returns the folder of the runs, the place of each stop, and the two outcomes of each stopped run.
    """
    folder = tmp_path_factory.mktemp("stopped")
    shipped, places = ROOT / "configs" / "pretrain_small.py", stops(pretrained, cache)
    (folder / "configs").mkdir()
    calls = [arguments(shipped, folder / "whole"), arguments(shipped, folder / "other", "--seed", "1")]
    for name, update in places.items():
        config = folder / "configs" / f"{name}.py"
        config.write_text(CONFIG.format(action=f"update == {update} and os.kill(os.getpid(), signal.SIGTERM)"))
        calls += [arguments(config, folder / name), arguments(config, folder / name)]
    whole, other, *parts = commands(*(["train", *call] for call in calls))
    assert (whole.code, other.code) == (0, 0), whole.err + other.err
    return folder, places, dict(zip(places, zip(parts[::2], parts[1::2], strict=True), strict=True))


@pytest.mark.parametrize("place", ["second", "seventh", "epoch"])
def test_a_run_stopped_by_a_signal_goes_on_bitwise(stopped, place):
    folder, places, outcomes = stopped
    first, second = outcomes[place]
    assert first.code == 75
    assert f"stopped by a signal after step {places[place]}" in first.err
    assert "run the same command again to go on" in first.err
    assert second.code == 0, second.err
    assert f"continues after update {places[place]}" in second.out
    assert_same_run(folder / place, folder / "whole")


def test_another_seed_gives_another_state(stopped):
    """The negative control: parameters and moments of both are of the same shapes and differ."""
    other, whole = (bits(stopped[0] / name) for name in ("other", "whole"))
    chex.assert_trees_all_equal_shapes_and_dtypes(other, whole)
    for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(whole), strict=True):
        assert a.size == np.dtype(np.int32).itemsize or not np.array_equal(a, b)  # the counters are the same


@pytest.mark.parametrize(
    ("number", "update", "code"), [(signal.SIGTERM, 5, 75), (signal.SIGKILL, 1, -9), (signal.SIGKILL, 9, -9)]
)
def test_a_process_ended_from_outside_goes_on_bitwise(
    stopped, tmp_path, environment, arguments, process, number, update, code
):
    """The process holds still once `update` is in its metrics, so that the signal finds it there on any machine."""
    run, go = tmp_path / "run", tmp_path / "go"
    hold = f"while update > {update + 1} and not os.path.exists({str(go)!r}): time.sleep(0.01)"
    config = tmp_path / "held.py"
    config.write_text(CONFIG.format(action=hold), encoding="utf-8")
    command = ["train.py", *arguments(config, run), "--training.save-every", "1"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as running:
        while not ((run / FILE).exists() and f'"step": {update}, "kind": "train"' in (run / FILE).read_text()):
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.01)
        running.send_signal(number)
        go.touch()
        _, error = running.communicate()
    assert running.returncode == code, error
    outcome = process(*command)
    assert outcome.code == 0, outcome.err
    if update > 1:  # a kill at update 1 may find no whole checkpoint yet
        assert "continues after update" in outcome.out
    assert_same_run(run, stopped[0] / "whole")
