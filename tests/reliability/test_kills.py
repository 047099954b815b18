"""kill -9 at any time of the real command line: nothing that was reported saved is lost, and no bit of the result."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from roformer_jax.training.step_folders import UNFINISHED, steps_in
from tests.end_to_end.conftest import ROOT
from tests.reliability.conftest import assert_same_run
from tests.reliability.faults import faulty_config, happened

EVERY = 3  # updates between saves
UPDATE = 0.03  # seconds that an update is slowed by: a save takes about three of them
FEWEST, MOST = 6, 15  # updates of a life that is killed while it trains: it saves two to five times
FOREVER = 1000


class Storm:
    """One run that is started and killed again and again; every life leaves what it said in a folder of its own."""

    def __init__(self, folder: Path, environment: dict[str, str], command):
        self.run = folder / "run"
        self._folder, self._environment, self._command = folder, environment, command
        self.lives = self.after_an_update = self.during_a_save = 0
        self.reported = 0  # the last step that a life reported saved
        self.resumed: list[int] = []

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    def live(self, config: Path, until) -> int:
        """Starts the command, kills it when `until(life)` returns, and reads what it said; returns its exit code."""
        life = self._folder / f"life_{self.lives}"
        life.mkdir()
        self.lives += 1
        with (life / "out").open("w") as out, (life / "err").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "train.py", *self._command(self.run, config)], stdout=out, stderr=err,
                cwd=ROOT, env=self._environment | {"UPDATES": str(life / "updates")},
            )  # fmt: skip
        try:
            until(life, process)
        finally:
            process.kill()
            process.wait()
        self._hear(life)
        return process.returncode

    def _hear(self, life: Path) -> None:
        out, err = ((life / name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert "Traceback" not in err, err
        start = re.search(r"^run +\S+: (?:new|continues after update (\d+))$", out, re.MULTILINE)
        if start:
            self.resumed.append(int(start[1] or 0))
            assert self.resumed[-1] >= self.reported, f"life {self.lives} lost what was reported saved\n{out}{err}"
        self.after_an_update += (life / "updates").exists()
        # The name of a checkpoint that is being written; it becomes a number by a rename, at the end of the save.
        self.during_a_save += any(self.checkpoints.glob(f"*{UNFINISHED}*"))
        steps = [int(step) for step in re.findall(r"^checkpoint of step (\d+) is on disk$", err, re.MULTILINE)]
        self.reported = max([self.reported, *steps])


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "the command ended before it could be killed"
        time.sleep(0.002)


@pytest.mark.timeout(1500)
def test_a_storm_of_kills_leaves_no_trace(tmp_path, environment, tiny_run, watched, process, count):
    """Kills come at random times while it trains, every fifth while a save is held, and every fifth while it starts.

    The run waits before its last update for the kill, so that each of them finds it running on any machine.
    """
    kills, steps = count(3, 25), count(30, 200)
    rng = random.Random(6)
    slow = watched(
        "with open(os.environ['UPDATES'], 'a') as file: print(update, file=file)",
        f"time.sleep({UPDATE} if update < {steps} else {FOREVER})",
    )

    def command(run: Path, config: Path) -> list[str]:
        return tiny_run(run, "--training.save-every", str(EVERY), steps=steps, config=config)

    storm = Storm(tmp_path, environment, command)

    def while_it_trains(life, process):
        number = rng.randint(FEWEST, MOST)

        def updates():
            path = life / "updates"
            return path.read_text(encoding="utf-8").split() if path.exists() else []

        wait_for(lambda: len(updates()) >= number or str(steps) in updates(), process)
        time.sleep(rng.uniform(0, EVERY * UPDATE))

    def at_any_time(life, process):
        time.sleep(rng.uniform(0, 4))

    for kill in range(kills):
        if kill % 5 == 1:  # the save is complete and about to appear under its number
            save = f"save {max(steps_in(storm.checkpoints), default=0) + EVERY}"
            held = faulty_config(tmp_path / f"held_{kill}", {save: f"time.sleep({FOREVER})"})
            found = storm.during_a_save
            code = storm.live(held, lambda life, process, held=held: wait_for(lambda: happened(held), process))
            assert storm.during_a_save == found + 1
        else:
            code = storm.live(slow, at_any_time if kill % 5 == 4 else while_it_trains)
        assert code == -signal.SIGKILL
    assert storm.lives == kills
    assert storm.after_an_update >= kills // 2
    assert storm.during_a_save >= (kills + 3) // 5  # those that were held, at least

    outcome = process("train.py", *command(storm.run, watched("pass")))
    assert outcome.code == 0, outcome.err
    assert max(storm.resumed) > 0
    whole = process("train.py", *command(tmp_path / "whole", watched("pass")))
    assert whole.code == 0, whole.err
    assert_same_run(storm.run, tmp_path / "whole")
