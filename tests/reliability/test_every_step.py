"""A run that was stopped after any of its updates, and goes on, sees the same batches and ends in the same bits."""

from itertools import chain

import chex
import jax
import numpy as np
import pytest

from roformer_jax.errors import Interrupted
from tests.reliability.conftest import assert_same_run, bits

STEPS, BATCH, ROWS = 40, 10, 72
CRASHED = 9  # exit code of a start that ended as nobody foresaw
EPOCH = -(-ROWS // BATCH)  # the update in which the second pass begins, as ROWS % BATCH rows are over
FLAGS = ["--training.batch-size", str(BATCH), "--training.save-every", "100", "--training.eval-every", "16"]


@pytest.fixture(scope="module")
def stops(count) -> list[int]:
    """Every update; in `make test` the first, and those about the end of the first epoch."""
    return count([1, EPOCH, EPOCH + 1], list(range(1, STEPS + 1)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, commands, tiny_run, watched, stops):
    """The folder of the runs `whole`, `other` (seed) and one for each stop; their batches' hashes lie beside them.

    All of them in one process, one after another: a stopped one and its continuation share nothing but the folder.
    """
    folder = tmp_path_factory.mktemp("runs")

    def call(name, *more, action="pass"):
        hashed = "hashlib.sha256(b''.join(batch[name].tobytes() for name in sorted(batch))).hexdigest()"
        write = f"with Path({str(folder / name)!r} + '.hashes').open('a') as file: print(update, {hashed}, file=file)"
        config = watched(action, write)
        return ["train", *tiny_run(folder / name, *FLAGS, *more, steps=STEPS, config=config)]

    def ended(stop):
        """Both starts of a run. A signal before the first update is made ends it unsaved; so that is a crash."""
        name = f"stop_{stop}"
        if stop > 1:
            return [call(name, action=f"if update == {stop}: os.kill(os.getpid(), signal.SIGTERM)"), call(name)]
        every = ["--training.save-every", "1"]
        return [call(name, *every, action=f"if update == 2: raise SystemExit({CRASHED})"), call(name, *every)]

    outcomes = commands(call("whole"), call("other", "--seed", "1"), *chain.from_iterable(map(ended, stops)))
    for outcome in outcomes[:2]:
        assert outcome.code == 0, outcome.err
    assert f"in {ROWS} rows" in outcomes[0].text
    for stop, first, second in zip(stops, outcomes[2::2], outcomes[3::2], strict=True):
        assert first.code == (CRASHED if stop == 1 else Interrupted.exit_code), first.err
        assert f"continues after update {stop}" in second.out or stop == STEPS
        assert second.code == 0, second.err
    return folder


def hashes(folder, name):
    return (folder / f"{name}.hashes").read_text(encoding="utf-8").splitlines()


@pytest.mark.timeout(1500)
def test_a_run_goes_on_bitwise_from_every_step(runs, stops):
    whole = hashes(runs, "whole")
    assert len(set(line.split()[1] for line in whole)) == STEPS, "no two batches are alike"
    for stop in stops:
        assert hashes(runs, f"stop_{stop}") == whole, f"stopped after {stop}"
        assert_same_run(runs / f"stop_{stop}", runs / "whole")


def test_another_seed_gives_other_batches_and_another_state(runs):
    """The negative control."""
    pairs = zip(hashes(runs, "whole"), hashes(runs, "other"), strict=True)
    assert all(a != b for a, b in pairs)
    other, whole = (bits(runs / name) for name in ("other", "whole"))
    chex.assert_trees_all_equal_shapes_and_dtypes(other, whole)
    for a, b in zip(jax.tree.leaves(other.params), jax.tree.leaves(whole.params), strict=True):
        assert not np.array_equal(a, b)
