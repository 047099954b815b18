"""The real command line on damaged checkpoints: it goes on from the newest whole one, or ends with code 4."""

import re
import shutil

import pytest

from roformer_jax.errors import DamagedError
from roformer_jax.run_folder import LOCK
from roformer_jax.training.record import FILE
from tests.end_to_end.conftest import contents
from tests.reliability.conftest import assert_same_run

STEPS, KEPT = 20, (10, 15, 20)


def spoil_weights(step):
    """Changes a byte in the middle of the largest file of parameters, which holds them."""
    path = max((path for path in (step / "params").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def lose_record(step):
    (step / "record" / FILE).unlink()


def lose(step):
    shutil.rmtree(step)


def without_lock(run):
    return {name: content for name, content in contents(run).items() if name != LOCK}


DAMAGES = {"weights": {20: spoil_weights}, "records": {20: lose_record, 15: lose_record}, "lost": {20: lose, 15: lose}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, commands, tiny_run):
    """The folder of a finished run and of damaged copies of it; the outcomes of their second start, by name."""
    folder = tmp_path_factory.mktemp("runs")

    def train(name):
        flags = ["--training.save-every", "5", "--training.keep", str(len(KEPT)), "--training.eval-every", "10"]
        return ["train", *tiny_run(folder / name, *flags, steps=STEPS)]

    (whole,) = commands(train("whole"))
    assert whole.code == 0, whole.err
    checkpoints = folder / "whole" / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == {str(step) for step in KEPT}
    for name, damages in {**DAMAGES, "all": dict.fromkeys(KEPT, lose_record)}.items():
        shutil.copytree(folder / "whole", folder / name)
        for step, damage in damages.items():
            damage(folder / name / "checkpoints" / str(step))
            assert contents(folder / name / "checkpoints" / str(step)) != contents(checkpoints / str(step))
    before = without_lock(folder / "all")
    calls = {
        "evaluate weights": ["evaluate", str(folder / "weights")],
        **{name: train(name) for name in (*DAMAGES, "all")},
        "all again": train("all"),
        "evaluate all": ["evaluate", str(folder / "all")],
    }
    outcomes = dict(zip(calls, commands(*calls.values()), strict=True))
    assert without_lock(folder / "all") == before
    return folder, outcomes


@pytest.mark.parametrize("name", DAMAGES)
def test_the_run_goes_on_from_the_newest_whole_checkpoint_and_ends_the_same(runs, name):
    folder, outcomes = runs
    damages, outcome, run = DAMAGES[name], outcomes[name], folder / name
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    newest = max(set(KEPT) - set(damages))
    assert re.search(rf"^run +{run}: continues after update {newest}$", outcome.out, re.MULTILINE)
    told = re.findall(r"^checkpoint (\d+) is damaged \((.+)\): moved to (.+); going back to (\d+)$", outcome.err, re.M)
    still_there = [step for step, damage in damages.items() if damage is not lose]
    assert [(int(a), c, int(d)) for a, _, c, d in told] == [
        (step, str(run / "checkpoints" / "damaged"), newest) for step in still_there
    ]
    if still_there:
        assert {path.name for path in (run / "checkpoints" / "damaged").iterdir()} == {str(s) for s in still_there}
    for step in range(newest + 5, STEPS + 1, 5):
        assert f"checkpoint of step {step} is on disk" in outcome.err
    assert {int(path.name) for path in (run / "checkpoints").glob("[0-9]*")} == set(KEPT)
    assert_same_run(run, folder / "whole")


def test_reading_a_run_takes_the_newest_whole_checkpoint(runs):
    folder, outcomes = runs
    outcome = outcomes["evaluate weights"]
    assert outcome.code == 0, outcome.err
    assert re.search(rf"^checkpoint 20 in {folder}/weights/checkpoints is damaged \(.+\); reading 15 instead$",
                     outcome.err, re.MULTILINE)  # fmt: skip


@pytest.mark.parametrize("name", ["all", "all again", "evaluate all"])
def test_where_all_are_damaged_the_command_ends_with_a_code_of_its_own_and_touches_nothing(runs, name):
    """That the folder is as it was is seen where the commands are run."""
    folder, outcomes = runs
    outcome = outcomes[name]
    assert outcome.code == DamagedError.exit_code == 4
    reasons = "".join(f"\n  step {step}: record: FileNotFoundError" for step in reversed(KEPT))
    message = f"error: no checkpoint in {folder}/all/checkpoints holds what was saved; nothing was changed{reasons}\n"
    assert outcome.err == message
