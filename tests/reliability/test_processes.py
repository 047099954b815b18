"""Two processes of one run: they stop together at one step, none outlives the other, and other hardware goes on.

Few combinations in `make test`, for every start costs seconds; all of them in `make stress`.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys

import chex
import numpy as np
import pytest

from roformer_jax.training.writer import read_metrics
from tests.end_to_end.conftest import Outcome
from tests.end_to_end.test_processes import free_port
from tests.reliability.conftest import ROOT, SHIPPED, assert_same_run
from tests.reliability.faults import faulty_config, happened

STEPS = 16
FLAGS = ["--training.batch-size", "8", "--training.save-every", "4"]
TIMEOUT = 120  # seconds; left to itself, JAX waits for five minutes
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
# JAX's preemption service looks for the signal once a second: without a pause this small run would be over by then.
TERMINATE, INTERRUPT = (f"os.kill(os.getpid(), signal.{name}); time.sleep(4)" for name in ("SIGTERM", "SIGINT"))
stress = pytest.mark.skipif(not os.environ.get("STRESS"), reason="only in `make stress`")


@pytest.fixture(scope="module")
def both(tmp_path_factory, environment, tiny_run):
    """`both(run, config)`: the outcomes of two processes of a run; they may differ in their flags and folders."""

    def both(run, config=SHIPPED, *flags, flags_of=((), ()), folders=(ROOT, ROOT), devices=1):
        command = [sys.executable, str(ROOT / "train.py"), *tiny_run(run, *FLAGS, *flags, steps=STEPS, config=config)]
        group = ["--coordinator", f"localhost:{free_port()}", "--processes", "2", "--process-id"]
        outputs = [tmp_path_factory.mktemp("output") for _ in range(2)]
        with contextlib.ExitStack() as opened:
            processes = []
            for index, (folder, output) in enumerate(zip(folders, outputs, strict=True)):
                out, err = (opened.enter_context((output / name).open("w")) for name in ("out", "err"))
                process = subprocess.Popen(
                    [*command, *flags_of[index], *group, str(index)], cwd=folder, stdout=out, stderr=err,
                    env=environment | {"JAX_NUM_CPU_DEVICES": str(devices)},
                )  # fmt: skip
                opened.callback(process.wait)
                opened.callback(process.kill)
                processes.append(process)
            codes = [process.wait(TIMEOUT) for process in processes]
        texts = [[(output / name).read_text() for name in ("out", "err")] for output in outputs]
        return [Outcome(code, *text) for code, text in zip(codes, texts, strict=True)]

    return both


@pytest.fixture(scope="module")
def whole(tmp_path_factory, both):
    """The folder of a run that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert [outcome.code for outcome in both(run)] == [0, 0]
    return run


@pytest.mark.parametrize(
    ("event", "fault", "process"),
    [
        ("evaluation 8 batch 2", TERMINATE, 1),
        *(
            pytest.param(event, fault, process, marks=stress)
            for event in ("update 6", "evaluation 8 batch 2")
            for fault in (TERMINATE, INTERRUPT)
            for process in (0, 1)
        ),
    ],
)
def test_a_signal_to_one_process_stops_both_at_one_step(both, whole, tmp_path, event, fault, process):
    """The processes agree on one of the next places; those that still stand in the evaluation leave it undone."""
    config = faulty_config(tmp_path, {event: fault}, process=process)
    stopped = both(tmp_path / "run", config)
    assert happened(config) == {event}
    assert [outcome.code for outcome in stopped] == [75, 75], stopped
    steps = {re.search(r"stopped by a signal after step (\d+), which is saved", outcome.err)[1] for outcome in stopped}
    assert len(steps) == 1
    assert int(event.split()[1]) <= int(*steps) < STEPS
    went_on = both(tmp_path / "run", config)
    assert [outcome.code for outcome in went_on] == [0, 0], went_on
    assert f"continues after update {steps.pop()}" in went_on[0].out
    assert_same_run(tmp_path / "run", whole)


ENDS = {
    "an exception": ("raise RuntimeError('the roof is on fire')", "RuntimeError: the roof is on fire", 1),
    "batches that end early": ("raise EndOfData", "ValueError: zip() argument 2 is shorter than argument 1", 1),
    "kill -9": (KILL, "", -9),
}


@pytest.mark.parametrize(
    ("end", "guilty"),
    [
        ("an exception", 1),
        ("batches that end early", 1),
        pytest.param("an exception", 0, marks=stress),
        pytest.param("batches that end early", 0, marks=stress),
        pytest.param("kill -9", 0, marks=stress),
        pytest.param("kill -9", 1, marks=stress),
    ],
)
def test_when_one_process_fails_both_end_and_the_guilty_one_says_why(both, tmp_path, end, guilty):
    fault, message, code = ENDS[end]
    config = faulty_config(tmp_path, {"update 6": fault}, process=guilty)
    outcomes = both(tmp_path / "run", config)
    assert happened(config) == {"update 6"}
    assert outcomes[guilty].code == code, outcomes
    assert outcomes[1 - guilty].code not in (0, 75), outcomes
    assert message in outcomes[guilty].err
    assert code < 0 or "Traceback" in outcomes[guilty].err


@pytest.mark.parametrize(
    ("field", "flags"),
    [
        ("optimizer.weight_decay", ["--optimizer.weight-decay", "0.5"]),
        pytest.param("mesh.fsdp", ["--mesh.fsdp", "2"], marks=stress),
        pytest.param("heldout", [], marks=stress),  # another document lies at the same path
    ],
)
def test_processes_that_were_not_started_alike_are_refused_by_field(both, texts, tmp_path, field, flags):
    run, folders = tmp_path / "run", (tmp_path / "0", tmp_path / "1")
    for folder in folders:
        shutil.copytree(texts, folder / "texts")
    if field == "heldout":
        (folders[1] / "texts" / "more.txt").write_text("another document\n")
    outcomes = both(run, SHIPPED, "--data.path", "texts", flags_of=((), flags), folders=folders)
    assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
    for outcome in outcomes:
        assert f"error: process 1 has another {field} than process 0" in outcome.err
    assert not run.exists()


# Processes, devices of each, flags, and the update after which the start is stopped.
HARDWARE = {
    "1 -> 2 x 4, fsdp": [(1, 1, [], 5), (2, 4, ["--mesh.fsdp", "2"], None)],
    "1 -> 8 -> 2, fsdp": [(1, 1, [], 4), (1, 8, [], 9), (1, 2, ["--mesh.fsdp", "2"], None)],
    "1 -> 2 processes -> 1": [(1, 1, [], 4), (2, 1, [], 9), (1, 1, [], None)],
    "fsdp -> data": [(1, 4, ["--mesh.fsdp", "4"], 6), (1, 4, [], None)],
}


@pytest.fixture(scope="module")
def train_on(tmp_path_factory, environment, tiny_run, watched, both):
    """`train_on(run, hardware)`: starts of one run, each on its hardware; returns the batches of all updates, whole."""

    def alone(run, config, *flags, devices):
        command = [sys.executable, "train.py", *tiny_run(run, *FLAGS, *flags, steps=STEPS, config=config)]
        env = environment | {"JAX_NUM_CPU_DEVICES": str(devices)}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TIMEOUT)
        return [Outcome(done.returncode, done.stdout, done.stderr)]

    def train_on(run, hardware):
        shares = tmp_path_factory.mktemp("shares")
        write = f"np.savez(f'{shares}/{{update}}.{{jax.process_index()}}.npz', **batch)"
        for processes, devices, flags, stop in hardware:
            signalled = f"if update == {stop} and jax.process_index() == 0: os.kill(os.getpid(), signal.SIGTERM)"
            heard = f"if update == {stop} and jax.process_count() > 1: time.sleep(4)"  # as above
            config = watched(f"import jax, numpy as np; {write}", signalled, heard)
            outcomes = (alone if processes == 1 else both)(run, config, *flags, devices=devices)
            assert {outcome.code for outcome in outcomes} == {0 if stop is None else 75}, outcomes
        found = {}
        for update in range(1, STEPS + 1):
            parts = [np.load(path) for path in sorted(shares.glob(f"{update}.*"))]
            found[update] = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        return found

    return train_on


@pytest.fixture(scope="module")
def alone(tmp_path_factory, train_on):
    """A run that one device made from beginning to end, and its batches."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    return run, train_on(run, [(1, 1, [], None)])


def losses(run, kind):
    return [line["loss"] for line in read_metrics(run) if line["kind"] == kind]


@stress
@pytest.mark.parametrize("hardware", HARDWARE)
def test_a_run_goes_on_with_other_hardware_on_the_same_batches(alone, train_on, tmp_path, hardware):
    """Sums of float32 in another order differ by some eps (1.2e-7); 16 updates multiply that by less than eighty.

    In `make test`, tests/training/test_loop.py and test_checkpoint.py go on with other meshes in one process.
    """
    reference, batches = alone
    found = train_on(tmp_path / "run", HARDWARE[hardware])
    chex.assert_trees_all_equal(found, batches)
    for kind, count in (("train", STEPS), ("eval", 3)):
        expected = losses(reference, kind)
        assert len(expected) == count
        np.testing.assert_allclose(losses(tmp_path / "run", kind), expected, rtol=1e-5)
