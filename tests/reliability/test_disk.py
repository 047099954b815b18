"""A disk that is full while a run saves costs the checkpoints of that time and nothing else.

Full is either a limit on the size of files (RLIMIT_FSIZE, EFBIG), or a small file system of the run's own (ENOSPC).
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from roformer_jax.training.checkpoint import restore_params
from tests.end_to_end.conftest import DRIVER, Outcome
from tests.reliability.conftest import ROOT, assert_same_run
from tests.reliability.faults import faulty_config, happened

STEPS = 16
FLAGS = ["--training.save-every", "4"]
TIMEOUT = 300  # seconds
LEFT = 100_000  # bytes: enough for the arrays of a checkpoint (50 kB), too few for its 27 files
CHECKPOINTS, METRICS = 15_000, 2_000  # bytes that a file of these exceeds; those of the metrics stay below the first
# No file may grow beyond the limit; a probe shows it.
LIMIT = """
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    (MARKS / "probe").write_bytes(bytes({limit} + 1))
except OSError as error:
    (MARKS / errno.errorcode[error.errno]).touch()
"""
UNLIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, [resource.getrlimit(resource.RLIMIT_FSIZE)[1]] * 2)"
# Writes until there is no space, then gives some back.
FILL = """
try:
    with open({ballast!r}, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError as error:
    (MARKS / errno.errorcode[error.errno]).touch()
os.truncate({ballast!r}, os.path.getsize({ballast!r}) - {left})
"""
# On a file system of its own, which ends with it: runs commands, and takes the run out.
MOUNTED = 'mount -t tmpfs -o size=4m tmpfs "$0" && "$1" -c "$2" && cp -a "$0/run" "$3"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def arguments(tiny_run):
    """`arguments(run)` of `train`."""
    return lambda run, **config: ["train", *tiny_run(run, *FLAGS, steps=STEPS, **config)]


def after_checkpoint(run, step, then):
    """A statement that does something once a checkpoint is there: it is written in the background."""
    return f"wait_for({str(run / 'checkpoints' / str(step))!r})\n{then}"


@pytest.fixture(scope="module")
def limited(folder, commands, arguments):
    """Outcomes of the runs "whole", "middle" (the disk is full at steps 8 and 12), "end" (at 16), and "freed"."""
    middle, end = folder / "middle", folder / "end"
    copy = f"import shutil; shutil.copytree({str(middle / 'checkpoints')!r}, MARKS / 'checkpoints')"
    faults = {
        "update 7": after_checkpoint(middle, 4, LIMIT.format(limit=CHECKPOINTS)),
        "update 11": LIMIT.format(limit=METRICS),
        "update 14": f"{UNLIMIT}; {copy}",
    }
    at_end = {"update 15": after_checkpoint(end, 12, LIMIT.format(limit=CHECKPOINTS))}
    outcomes = commands(
        arguments(folder / "whole"),
        arguments(middle, config=faulty_config(folder / "a", faults)),
        arguments(end, config=faulty_config(folder / "b", at_end)),
        arguments(end, config=faulty_config(folder / "c", {"preparation": UNLIMIT})),
    )
    assert outcomes[0].code == 0, outcomes[0].err
    return dict(zip(("whole", "middle", "end", "freed"), outcomes, strict=True))


def unsaved_steps(outcome):
    """Of the warnings, in order."""
    return [
        int(step) for step in re.findall(r"WARNING: the checkpoint of step (\d+) could not be written", outcome.err)
    ]


def test_saves_that_fail_are_told_and_training_goes_on(limited, folder):
    outcome = limited["middle"]
    assert "EFBIG" in happened(folder / "a" / "faulty.py")
    assert outcome.code == 0, outcome.err
    assert unsaved_steps(outcome) == [8, 12]
    assert "File too large" in outcome.err
    assert "the newest on disk is that of step 4" in outcome.err
    assert "metrics.jsonl cannot be written" in outcome.err
    assert "checkpoint of step 16 is on disk" in outcome.err
    assert_same_run(folder / "middle", folder / "whole")


def test_while_the_disk_is_full_the_older_steps_stay_as_they_are(limited, folder):
    copy = folder / "a" / "marks" / "checkpoints"
    assert {path.name for path in copy.iterdir() if path.name.isdecimal()} == {"4"}
    assert restore_params(copy, 4)  # verified


def test_a_last_save_that_fails_is_an_error_and_the_same_command_makes_up_for_it(limited, folder):
    failed, freed = limited["end"], limited["freed"]
    assert "EFBIG" in happened(folder / "b" / "faulty.py")
    assert failed.code == 5, failed.err
    assert "error: the checkpoint of step 16 could not be written" in failed.err
    assert "that of step 12 is as it was; mend that and run the same command again" in failed.err
    assert freed.code == 0, freed.err
    assert "continues after update 12" in freed.out
    assert_same_run(folder / "end", folder / "whole")


def can_mount(folder):
    tried = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return shutil.which("unshare") and subprocess.run(tried, capture_output=True).returncode == 0


def test_a_full_file_system_is_survived_as_well(limited, folder, environment, arguments):
    """Full when step 8 is written; without a byte left when 12 is due, and again at the end."""
    disk = folder / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("no file system can be mounted here: only the limit on the size of files is tested")
    ballast = str(disk / "ballast")
    full, fuller = (FILL.format(ballast=ballast, left=left) for left in (LEFT, 0))
    free = f"os.remove({ballast!r})"
    begun = after_checkpoint(disk / "run", 4, full)
    faults = {"update 7": begun, "update 11": fuller, "update 14": free, "update 15": fuller}
    filled, freed = faulty_config(folder / "d", faults), faulty_config(folder / "e", {"preparation": free})
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNTED, str(disk), sys.executable, DRIVER, str(folder / "mounted")],
        input=json.dumps([arguments(disk / "run", config=config) for config in (filled, freed)]),
        cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    failed, finished = (Outcome(*json.loads(line)) for line in done.stdout.splitlines())
    assert happened(filled) == {*faults, "ENOSPC"}
    assert failed.code == 5, failed.err
    assert unsaved_steps(failed) == [8, 12, 16, 16]  # the last is tried twice
    assert "No space left on device" in failed.err
    assert "error: the checkpoint of step 16 could not be written" in failed.err
    assert "that of step 4 is as it was" in failed.err
    assert finished.code == 0, finished.err
    assert "continues after update 4" in finished.out
    assert_same_run(folder / "mounted", folder / "whole")
