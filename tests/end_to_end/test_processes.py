"""One run on several processes of this machine, as on the hosts of a pod: the losses are those of one process."""

import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from roformer_jax.run_folder import read_json
from roformer_jax.training.writer import read_metrics
from tests.end_to_end.conftest import ROOT

STEPS = 20
TIMEOUT = 300  # seconds, after which a run that waits for itself is ended


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def train_on(environment):
    """`train_on(processes, devices, *arguments)`: train.py on so many processes, of so many devices each."""

    def train_on(processes, devices, *arguments):
        command = [sys.executable, "train.py", *arguments]
        others = [] if processes == 1 else ["--coordinator", f"localhost:{free_port()}", "--processes", str(processes)]
        started = [
            subprocess.Popen(
                command + (others and [*others, "--process-id", str(index)]),
                cwd=ROOT, env=environment | {"JAX_NUM_CPU_DEVICES": str(devices)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            for index in range(processes)
        ]  # fmt: skip
        try:
            outputs = [process.communicate(timeout=TIMEOUT)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        assert [process.returncode for process in started] == [0] * processes, "\n".join(outputs)

    return train_on


@pytest.fixture(scope="module")
def run_on(tmp_path_factory, train_on, pretraining_flags):
    """`run_on(processes, devices, *flags)`: the folder of a pretraining on them."""

    def run_on(processes, devices, *flags):
        run = tmp_path_factory.mktemp("runs") / "run"
        train_on(processes, devices, "configs/pretrain_small.py", *pretraining_flags(run, steps=STEPS), *flags)
        return run

    return run_on


def losses(run, kind):
    return [line["loss"] for line in read_metrics(run) if line["kind"] == kind]


@pytest.fixture(scope="module")
def alone(run_on):
    return run_on(1, 1)


@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [(2, 4, ["--mesh.fsdp", "2", "--mesh.tensor", "2"]), (2, 1, ["--mesh.sequence", "2"])],
    ids=["2 x 4: data, fsdp, tensor", "2 x 1: sequence"],
)
def test_several_processes_train_as_one_does(run_on, alone, processes, devices, mesh):
    run = run_on(processes, devices, *mesh)
    for kind in ("train", "eval"):
        expected = losses(alone, kind)
        np.testing.assert_allclose(losses(run, kind), expected, rtol=1e-5)
    assert len(losses(run, "train")) == STEPS
    assert losses(alone, "eval")[-1] < losses(alone, "train")[0] - 0.5, "nothing was learnt"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["10", "20"]


def test_a_comparison_on_two_processes_leaves_the_cells_of_one(train_on, pretraining_flags, tmp_path):
    """The held-out loss at another length too, which all processes measure together."""

    def cell(processes):
        root = tmp_path / str(processes)
        flags = [word.replace("--", "--base.", 1) for word in pretraining_flags(root / "runs", steps=4)]
        table = ["--results", str(root / "page.md"), "--values", "rope", "--seeds", "0", "--lengths", "32"]
        train_on(processes, 1, "configs/mlm_convergence.py", *flags, *table)
        return read_json(root / "page" / "mlm" / "rope-0.json")

    one, two = cell(1), cell(2)
    assert (one["updates"], one["config"]) == (two["updates"], two["config"])
    for measured in ("metrics", "lengths"):
        assert two[measured] == pytest.approx(one[measured], rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "localhost:1"], "--coordinator, --processes and --process-id are given together"),
        (["--coordinator", "localhost", "--processes", "2", "--process-id", "0"], "localhost is not HOST:PORT"),
        (["--coordinator", "h:1", "--processes", "2", "--process-id", "2"], r"--process-id 2 must lie in \[0, 2\)"),
        (["--processes", "two"], "invalid int value: 'two'"),
        (["--distributed", "--processes", "2"], "--distributed finds the processes itself"),
    ],
)
def test_what_describes_no_group_of_processes_is_refused(here, tmp_path, pretraining_flags, flags, message):
    run = tmp_path / "run"
    outcome = here("train", "configs/pretrain_small.py", *pretraining_flags(run, steps=1), *flags)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert re.search(message, outcome.err)
    assert not run.exists()


def test_without_a_cluster_there_is_none_to_ask(process, tmp_path, pretraining_flags):
    """In a process of its own: JAX asks before it has looked at its devices, and never after."""
    run = tmp_path / "run"
    outcome = process("train.py", "configs/pretrain_small.py", *pretraining_flags(run, steps=1), "--distributed")
    assert outcome.code == 2
    assert outcome.err.startswith("error: --distributed: no cluster found")
    assert not run.exists()
