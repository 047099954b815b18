"""Checkpoints made to do harm: nothing is executed, written elsewhere, or given the memory they ask for."""

import hashlib
import json
import os
import pickle
import resource

import pytest

from roformer_jax.errors import InputError
from roformer_jax.training.checkpoint import Checkpoints, restore_params
from roformer_jax.training.state import abstract
from tests.end_to_end.conftest import contents
from tests.reliability.saved import BEFORE, NEWEST, bytes_of, files_of


def forge(folder, change):
    """Writes a record of any content that is consistent in itself."""
    path = folder / str(NEWEST) / "record" / "metadata"
    leaves = json.loads(path.read_text())["leaves"]
    change(leaves)
    sha256 = hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({"leaves": leaves, "sha256": sha256}))


def with_leaf(name, **changes):
    def change(leaves):
        leaves[name] = leaves["params/head/kernel"] | changes

    return change


HOSTILE = {
    "10^12 elements": with_leaf("params/encoder/kernel", shape=[10**6, 10**6]),
    "10^12 elements in another array": with_leaf("params/encoder/more", shape=[10**12]),
    "elements of a gigabyte": with_leaf("params/head/kernel", dtype="V1000000000"),
    "a path out of the folder": with_leaf("params/../../x"),
    "an absolute path": with_leaf("params//tmp/x"),
    "no path": with_leaf("params/"),
    "a path below an array": with_leaf("params/head/kernel/below"),
    "a dtype of Python objects": with_leaf("params/head/kernel", dtype="object"),
    "no dtype": with_leaf("params/head/kernel", dtype="nonsense"),
    "a list for a dtype": with_leaf("params/head/kernel", dtype=["f4"]),
    "a negative length": with_leaf("params/head/kernel", shape=[-32, 16]),
    "a length in words": with_leaf("params/head/kernel", shape=["32", "16"]),
    "half a length": with_leaf("params/head/kernel", shape=[32.5, 16]),
    "too many axes": with_leaf("params/head/kernel", shape=[1] * 1000),
    "no arrays": dict.clear,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_record_is_refused_in_bounded_memory(copy, states, capfd, change):
    folder = copy()
    forge(folder, change)
    before, peak = contents(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    params = restore_params(folder)
    assert bytes_of(params) == bytes_of(states[BEFORE].params)
    assert f"checkpoint {NEWEST} in {folder} is damaged" in capfd.readouterr().err
    with Checkpoints(folder) as checkpoints:
        try:
            state = checkpoints.restore_newest(abstract(states[NEWEST]))
            assert bytes_of(state) == bytes_of(states[BEFORE])
        except InputError as error:
            assert "is a checkpoint of another model: params/" in str(error)
            assert contents(folder) == before
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}
    # A declared terabyte would show; a hundred megabytes are what compilers take in passing.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000, "KiB"


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def test_a_pickle_in_place_of_any_file_is_never_executed(copy, assert_recovers, tmp_path):
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(canary))
    pickle.loads(payload)
    assert canary.exists(), "it would sing"
    canary.rmdir()
    folder = copy()
    for path in files_of(folder / str(NEWEST)):
        path.write_bytes(payload)
    assert assert_recovers(folder)[0] == BEFORE
    assert not canary.exists()
