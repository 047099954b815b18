"""A signal in any phase of a run costs nothing: exit code 75, and the same command goes on to bitwise the same end.

The runs signal themselves where they are in that phase, so that no test depends on time; one that hangs is ended.
"""

import signal
import subprocess
import sys
import time

import pytest

from tests.reliability.conftest import ROOT, assert_same_run
from tests.reliability.faults import faulty_config, happened

STEPS = 16
FLAGS = ["--training.batch-size", "4", "--training.save-every", "4"]  # evaluations of four batches, every 8 updates
TIMEOUT = 60  # seconds
SIGNAL = "os.kill(os.getpid(), signal.{})"
# Where one run is stopped, start after start: the event, and the step that must be saved.
STOPS = {
    "preparation": None,
    "save 4": 5,  # by the thread that saves in the background, while update 5 waits
    "update 7": 7,
    "evaluation 8 batch 3": 8,
    "evaluation 16 batch 3": 16,
}
MIXED = dict(zip(STOPS, ["SIGTERM", "SIGTERM", "SIGINT", "SIGTERM", "SIGTERM"], strict=True))
DEAF = SIGNAL.format("SIGTERM") + "; time.sleep(1e6)"  # as a compiler is


@pytest.fixture(scope="module")
def arguments(tiny_run):
    """`arguments(run)` of `train.py`."""
    return lambda run, **config: tiny_run(run, *FLAGS, steps=STEPS, **config)


def stopped_everywhere(folder, signals):
    """A config whose runs send themselves these signals."""
    faults = {event: SIGNAL.format(name) for event, name in signals.items()}
    faults["save 4"] += "; (MARKS / 'signalled').touch()"
    faults["update 5"] = "wait_for(MARKS / 'signalled')"
    return faulty_config(folder, faults)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, commands, arguments, count):
    """A folder of the run "whole", and of runs that were stopped everywhere; and the outcomes of all their starts."""
    folder, signals = tmp_path_factory.mktemp("signals"), {"mixed": MIXED}
    for name in ("SIGINT", "SIGTERM")[: count(0, 2)]:
        signals[name] = dict.fromkeys(STOPS, name)
    calls = [["train", *arguments(folder / "whole")]]
    for name, by_event in signals.items():
        config = stopped_everywhere(folder / "configs" / name, by_event)
        calls += [["train", *arguments(folder / name, config=config)]] * (len(STOPS) + 1)
    whole, *starts = commands(*calls)
    assert whole.code == 0, whole.err
    return folder, {name: [starts.pop(0) for _ in range(len(STOPS) + 1)] for name in signals}


@pytest.mark.parametrize("event", STOPS)
def test_a_signal_leaves_exit_code_75_and_a_verified_checkpoint_of_that_step(runs, event):
    for starts in runs[1].values():
        index, step = list(STOPS).index(event), STOPS[event]
        stopped, after = starts[index], starts[index + 1]
        assert stopped.code == 75, stopped.err
        if step is None:
            assert "stopped by a signal before its first update; nothing is lost" in stopped.err
            assert "new" in after.out
        else:
            assert f"stopped by a signal after step {step}, which is saved" in stopped.err
            stands = "complete" if step == STEPS else f"continues after update {step}"
            assert stands in after.out  # and its digests were compared with the state


def test_a_run_stopped_in_every_phase_ends_as_the_undisturbed_one(runs):
    folder, outcomes = runs
    for name, starts in outcomes.items():
        assert happened(folder / "configs" / name / "faulty.py") == {*STOPS, "update 5", "signalled"}
        assert starts[-1].code == 0, starts[-1].err
        assert_same_run(folder / name, folder / "whole")


@pytest.fixture(scope="module")
def interrupted(runs, environment, arguments):
    """One run in three processes: ended by a second Ctrl-C, stopped in the compiler, and gone on with.

    Returns its folder, and the exit code and the standard error of each.
    """
    folder, run = runs[0], runs[0] / "interrupted"
    saved = f"wait_for({str(run / 'checkpoints' / '4')!r})"
    held = faulty_config(folder / "configs" / "held", {"update 6": saved, "update 7": "time.sleep(1e6)"})
    deaf = faulty_config(folder / "configs" / "deaf", {"compilation": DEAF})
    found = []
    for config in (held, deaf, deaf):
        command = [sys.executable, "train.py", *arguments(run, config=config)]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                said = press_twice(process, config) if config == held else ""
                found.append((said + process.communicate(timeout=TIMEOUT)[1], process.returncode))
            finally:
                process.kill()
    return run, found


def press_twice(process, config):
    """Sends SIGINT once update 7 is held, and again once the process has said that it heard; returns what it said."""
    while "update 7" not in happened(config):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = ""
    while "Ctrl-C once more ends at once" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    return said


def test_a_second_interrupt_ends_at_once_and_what_was_saved_is_taken_up(interrupted):
    _, ((ended, code), *_) = interrupted
    assert code == 130, ended
    assert ended.endswith("\nended\n")


def test_a_signal_while_a_run_that_goes_on_is_compiled_ends_it(interrupted):
    """The thread that compiles never ends here; neither does a compiler listen."""
    _, (_, (stopped, code), _) = interrupted
    assert code == 75, stopped
    assert "stopped by a signal before its first update; nothing is lost" in stopped


def test_a_run_ended_and_stopped_before_it_went_on_ends_as_the_undisturbed_one(interrupted, runs):
    run, (*_, (error, code)) = interrupted
    assert code == 0, error
    assert_same_run(run, runs[0] / "whole")
