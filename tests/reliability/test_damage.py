"""Checkpoints damaged in every way: the right state or the one before it, never a wrong one and never a traceback."""

import os
import random
import re
import shutil

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from roformer_jax.errors import DamagedError, InputError
from roformer_jax.training.checkpoint import Checkpoints, restore_params
from roformer_jax.training.state import abstract, create_state
from tests.end_to_end.conftest import contents
from tests.reliability.saved import BEFORE, NEWEST, bytes_of, files_of


def flip(path, rng):
    """Flips one random bit of a file."""
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[rng.randrange(len(before))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    assert sum((a ^ b).bit_count() for a, b in zip(before, path.read_bytes(), strict=True)) == 1


def test_undamaged_checkpoints_are_read_as_they_are(copy, assert_recovers):
    assert assert_recovers(copy()) == (NEWEST, "")


def test_any_flipped_bit_leaves_the_right_state_or_the_one_before(copy, assert_recovers, count):
    rng = random.Random(7)
    steps = []
    for _ in range(count(12, 100)):
        folder = copy()
        flip(rng.choice(files_of(folder / str(NEWEST))), rng)
        steps.append(assert_recovers(folder)[0])
        shutil.rmtree(folder)
    assert {NEWEST, BEFORE} == set(steps), "some bits do not matter, some do"


@pytest.mark.parametrize("leaf", ["params/encoder/kernel", "params/head/kernel", "rest/opt_state/0/mu/encoder/kernel"])
def test_a_flipped_bit_in_an_array_is_seen_and_the_array_named(copy, assert_recovers, states, leaf):
    """These bits lie in the files as they are, and no format notices their change: only the digest does."""
    folder, state = copy(), states[NEWEST]
    arrays = {
        "params/encoder/kernel": state.params["encoder"]["kernel"],
        "params/head/kernel": state.params["head"]["kernel"],
        "rest/opt_state/0/mu/encoder/kernel": state.opt_state[0].mu["encoder"]["kernel"],
    }
    inner = np.asarray(arrays[leaf]).tobytes()[8:40]
    holding = [path for path in files_of(folder / str(NEWEST)) if inner in path.read_bytes()]
    assert holding
    for path in holding:
        content = bytearray(path.read_bytes())
        content[content.index(inner) + 5] ^= 1
        path.write_bytes(content)
    assert assert_recovers(folder) == (BEFORE, f"digest of {leaf}")


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


@pytest.mark.parametrize("damage", [truncate, empty, os.remove])
def test_a_file_cut_emptied_or_deleted_leaves_the_right_state_or_the_one_before(
    saved, copy, assert_recovers, count, damage
):
    """All files of a checkpoint; in `make test` one of each kind: names of 32 digits are of one kind."""
    newest = saved / str(NEWEST)
    files = [str(path.relative_to(newest)) for path in files_of(newest)]
    kinds = {re.sub(r"^(params|rest)/|[0-9a-f]{32}$", "", file): file for file in reversed(files)}
    for file in count(sorted(kinds.values()), files):
        folder = copy()
        damage(folder / str(NEWEST) / file)
        assert contents(folder / str(NEWEST)) != contents(newest)
        step, _ = assert_recovers(folder)
        if file in ("record/metadata", "params/manifest.ocdbt"):
            assert step == BEFORE, f"{damage.__name__} {file}"
        shutil.rmtree(folder)


@pytest.mark.parametrize("what", [".", "params", "rest", "record", "params/d"])
def test_an_emptied_folder_is_damage(copy, assert_recovers, what):
    folder = copy()
    shutil.rmtree(folder / str(NEWEST) / what)
    (folder / str(NEWEST) / what).mkdir(parents=True)
    assert assert_recovers(folder)[0] == BEFORE


@pytest.mark.parametrize("item", ["params", "rest"])
def test_arrays_of_another_step_are_not_taken_for_those_of_this_one(copy, assert_recovers, item):
    folder = copy()
    shutil.rmtree(folder / str(NEWEST) / item)
    shutil.copytree(folder / str(BEFORE) / item, folder / str(NEWEST) / item)
    if item == "rest":  # who reads the parameters only does not see it
        shutil.rmtree(folder / str(NEWEST) / "params")
    assert assert_recovers(folder)[0] == BEFORE


def test_what_a_kill_may_leave_behind_is_removed_and_saving_goes_on(copy, assert_recovers, states):
    """Half-written folders, a trash that was not emptied, and an older step that is half deleted."""
    folder = copy()
    leftovers = ["3.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-17", "params.orbax-checkpoint-tmp-0", "trash/0"]
    for name in leftovers:
        shutil.copytree(folder / str(BEFORE), folder / name)
    shutil.rmtree(folder / str(BEFORE) / "params")
    assert assert_recovers(folder) == (NEWEST, "")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(3, states[NEWEST])
    assert {path.name for path in folder.iterdir()} == {str(NEWEST), "3"}


@pytest.mark.parametrize("name", ["007x", "0007", "-7", "7.bad", "٧", "tmp", "7 "])
def test_a_folder_with_another_name_is_no_checkpoint_and_stays(copy, assert_recovers, states, name):
    folder = copy()
    shutil.copytree(folder / str(BEFORE), folder / name)
    assert assert_recovers(folder) == (NEWEST, "")
    with Checkpoints(folder) as checkpoints:
        for step in (3, 4, 5):
            checkpoints.save(step, states[NEWEST])
    assert {path.name for path in folder.iterdir()} == {"4", "5", name}


def test_a_link_is_no_checkpoint_and_nothing_is_written_where_it_leads(copy, assert_recovers, states, tmp_path, capfd):
    folder, outside = copy(), tmp_path / "outside"
    shutil.copytree(folder / str(BEFORE), outside)
    before = contents(outside)
    (folder / "5").symlink_to(outside, target_is_directory=True)
    assert assert_recovers(folder) == (NEWEST, "")
    with Checkpoints(folder) as checkpoints:
        for step in (3, 4, 5, 6, 7):
            checkpoints.save(step, states[NEWEST])
    assert contents(outside) == before
    assert {path.name for path in folder.iterdir()} - {"5"} == {"6", "7"}


def test_when_all_are_damaged_each_reason_is_told_and_nothing_is_touched(copy, states):
    folder = copy()
    (folder / str(NEWEST) / "record" / "metadata").unlink()
    shutil.rmtree(folder / str(BEFORE) / "params")
    before, messages = contents(folder), []
    for _ in range(2):
        with pytest.raises(DamagedError) as first, Checkpoints(folder) as checkpoints:
            checkpoints.restore_newest(abstract(states[NEWEST]))
        with pytest.raises(DamagedError) as second:
            restore_params(folder)
        messages.append((str(first.value), str(second.value)))
    assert contents(folder) == before
    assert messages[0] == messages[1]
    for message in messages[0]:
        title, *reasons = message.splitlines()
        assert title == f"no checkpoint in {folder} holds what was saved; nothing was changed"
        assert reasons[0] == "  step 2: record: FileNotFoundError"
        assert re.fullmatch(r"  step 1: .+", reasons[1]) and len(reasons) == 2


def other_models(state):
    """What is not the saved model, and what the message says of the first difference."""
    encoder, head = state.params["encoder"], state.params["head"]
    wider = encoder | {"kernel": jnp.zeros((64, 33))}
    renamed = {"core": encoder["kernel"], "bias": encoder["bias"]}
    lower = encoder | {"kernel": encoder["kernel"].astype(jnp.bfloat16)}
    kernel = "params/encoder/kernel is float32[64, 32] there, and"
    return {
        "shape": (wider, f"{kernel} float32[64, 33] here"),
        "name": (renamed, "params/encoder/core is absent there, and float32[64, 32] here"),
        "dtype": (lower, f"{kernel} bfloat16[64, 32] here"),
    }, head


@pytest.mark.parametrize("difference", ["shape", "name", "dtype"])
def test_a_checkpoint_of_another_model_is_refused_by_name(copy, states, difference):
    folder, (models, head) = copy(), other_models(states[NEWEST])
    encoder, message = models[difference]
    target = abstract(create_state({"encoder": encoder, "head": head}, optax.adam(1e-3)))
    before = contents(folder)
    with pytest.raises(InputError) as caught, Checkpoints(folder) as checkpoints:
        checkpoints.restore_newest(target)
    assert f"{folder / str(NEWEST)} is a checkpoint of another model: {message}" in str(caught.value)
    assert contents(folder) == before, "it is not damage"


def test_damage_after_damage_is_kept_apart(copy, states, assert_recovers):
    folder = copy()
    for time in range(2):
        (folder / str(NEWEST) / "record" / "metadata").unlink()
        with Checkpoints(folder) as checkpoints:
            checkpoints.restore_newest(abstract(states[NEWEST]))
            checkpoints.save(NEWEST, states[NEWEST])
        assert len(list((folder / "damaged").iterdir())) == time + 1
    assert bytes_of(restore_params(folder)) == bytes_of(states[NEWEST].params)


def test_the_folder_does_not_grow(tmp_path, states, count):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        most = 0
        for step in range(count(10, 50)):
            checkpoints.save(step, states[NEWEST])
            most = max(most, len(list(tmp_path.iterdir())), len(list(tmp_path.glob("trash/*"))))
    assert most <= 2 + 1 + 1 + 1  # two checkpoints, one to go, one being written, and the trash, of one
    assert len(list(tmp_path.iterdir())) == 2
