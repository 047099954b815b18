"""Checkpoints of the training state, written in the background, and verified when they are read.

The only file that knows orbax. A checkpoint appears under its step's number all at once or not at all; old ones leave
by a rename, so that a run killed at any moment keeps only whole checkpoints. Beside the arrays lies a record of their
digests: what was damaged since is noticed, set aside, and the checkpoint before is taken. The parameters are an item of
their own, readable without the optimizer.
"""

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from roformer_jax.distributed import agreed, on_first_process
from roformer_jax.errors import DamagedError, InputError, NonFiniteError, RunError, UnsavedError
from roformer_jax.training.patience import patient_loops
from roformer_jax.training.record import read_record, record_of
from roformer_jax.training.state import TrainState
from roformer_jax.training.step_folders import (
    DAMAGED,
    TRASH,
    all_damaged,
    check_exists,
    empty_trash,
    remove_unfinished,
    set_aside,
    steps_in,
)
from roformer_jax.typing import PyTree

PARAMS, REST, RECORD = "params", "rest", "record"  # the items of a checkpoint
LOG = logging.getLogger("absl")  # where orbax writes
HEADROOM = 1.1  # free space that a checkpoint needs, over the bytes of its arrays


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Never: the loop asks for itself, and JAX's count of those calls must be one."""
        return False


class Checkpoints:
    """The checkpoints of one run; a context manager that leaves when none is being written.

    A checkpoint that cannot be written does not end a run: it is told, and the next one is tried.

    Args:
        folder: a local folder; made if missing.
        keep: how many of the newest checkpoints stay.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2):
        self._folder = Path(folder).expanduser().resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, todelete_subdir=TRASH)
        self._manager = _Manager(self._folder, options=options, item_names=(PARAMS, REST, RECORD))
        self._writing: int | None = None
        self._unsaved: str | None = None

    def __enter__(self) -> "Checkpoints":
        self._told = LOG.level
        LOG.setLevel(logging.CRITICAL)  # a save that fails is told in one line here, and there in tracebacks
        return self

    def __exit__(self, *exception) -> None:
        self.settle()
        self._manager.close()
        LOG.setLevel(self._told)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, verified or not; None if there is none."""
        return max(steps_in(self._folder), default=None)

    def save(self, step: int, state: TrainState, *, after: Callable[[], bool] = lambda: True) -> None:
        """Copies `state` and writes it in the background; the caller may donate its arrays at once.

        A failure, of this save or in the background of the one before, is told on the standard error.

        Args:
            step: number of updates made.
            state: the state after them.
            after: puts on disk what must be there before this checkpoint, and says whether it is.

        Raises:
            InputError: the folder holds a checkpoint of this step or of a later one.
            NonFiniteError: an array holds a NaN or an infinity; nothing is written.
        """
        self.settle()
        if self._unsaved is not None:  # other arrays of that step may have been on their way when it was given up
            self._clear()
        latest = self.latest_step()
        if latest is not None and latest >= step:
            raise InputError(
                f"{self._folder} holds a checkpoint of step {latest}, so step {step} cannot be saved: "
                "remove the newer checkpoints or use another folder"
            )
        record, not_finite = record_of(_items(state))
        if not_finite:
            raise NonFiniteError(
                f"after step {step} these arrays hold a NaN or an infinity: {', '.join(not_finite)}; they are not "
                f"saved, and the newest checkpoint in {self._folder} is that of step {latest}"
            )
        if not agreed(after()):
            self._tell_unsaved(step, "the metrics before it could not")
            return
        need = HEADROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if not agreed(self._room() >= need):
            self._tell_unsaved(step, f"{need / 1e6:,.0f} MB are needed and {self._room() / 1e6:,.0f} MB are free")
            return
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        self._writing = step
        try:
            self._manager.save(step, args=ocp.args.Composite(**items, record=ocp.args.JsonSave(record)), force=True)
        except Exception as error:  # whatever it is, training goes on
            self._give_up(error)

    def save_last(self, step: int, state: TrainState, *, after: Callable[[], bool] = lambda: True) -> None:
        """As `save`, and returns when the checkpoint is on disk; what fails is tried once more.

        Raises:
            UnsavedError: it cannot be written.
            InputError, NonFiniteError: as `save` says.
        """
        for _ in range(2):
            self.save(step, state, after=after)
            self.settle()
            if agreed(self._unsaved is None, by_all=True):
                return
        latest = self.latest_step()
        safe = "there is no checkpoint yet" if latest is None else f"that of step {latest} is as it was"
        raise UnsavedError(
            f"the checkpoint of step {step} could not be written to {self._folder} ({self._unsaved}); {safe}; "
            "mend that and run the same command again"
        )

    def poll(self) -> None:
        """Tells how the save in the background ended, if it did; waits for nothing."""
        if self._writing is not None and not self._manager.is_saving_in_progress():
            self.settle()

    def settle(self) -> None:
        """Waits for the save in the background and tells how it ended."""
        if self._writing is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever it is, training goes on
            self._give_up(error)
            return
        _say(f"checkpoint of step {self._writing} is on disk")
        self._writing = self._unsaved = None
        if jax.process_index() == 0:
            empty_trash(self._folder)

    def restore_newest(self, target: TrainState) -> TrainState | None:
        """The newest checkpoint that holds what was saved, or None where there is none at all.

        Those after it are damaged: they are moved to the folder `damaged`, each with a line that says why.

        Args:
            target: what `abstract` gives; its shardings may be of another mesh than the saved ones.

        Raises:
            DamagedError: there are checkpoints and all of them are damaged; they stay where they are.
            InputError: a checkpoint holds other arrays than `target`.
        """
        damaged = {}
        for step in sorted(steps_in(self._folder), reverse=True):
            try:
                state = self.restore(target, step)
            except DamagedError as error:
                damaged[step] = str(error)
                continue
            for bad, reason in damaged.items():
                _say(f"checkpoint {bad} is damaged ({reason}): moved to {self._folder / DAMAGED}; going back to {step}")
            on_first_process(lambda: [set_aside(self._folder, bad) for bad in damaged])
            self._manager.reload()
            return state
        if damaged:
            raise all_damaged(self._folder, damaged)
        return None

    def restore(self, target: TrainState, step: int) -> TrainState:
        """Reads the checkpoint of one step onto the shapes, dtypes and shardings of `target`, and verifies it.

        Raises:
            DamagedError: it does not hold what was saved.
            InputError: it holds other arrays than `target`, or does not exist.
        """
        check_exists(self._folder, step)
        path = self._folder / str(step)
        found, damage = None, DamagedError("another process cannot read it")
        try:
            record = read_record(path / RECORD)
            record.check_target(path, _items(target))
            with _damage():
                found = {name: _read_item(path / name, tree) for name, tree in _items(target).items()}
        except DamagedError as error:
            damage = error
        if not agreed(found is not None, by_all=True):
            raise damage
        record.check_content(found)
        return TrainState(params=found[PARAMS], **found[REST])

    def _room(self) -> int:
        return shutil.disk_usage(self._folder).free

    def _give_up(self, error: Exception) -> None:
        """Leaves the save that failed, and what it had written so far."""
        step, self._writing = self._writing, None
        with contextlib.suppress(Exception):  # waits for orbax's own notes of the step, written by another thread
            self._manager.check_for_errors()
        self._clear()
        self._manager.reload()  # orbax counts it as saved
        self._tell_unsaved(step, _first_line(error))

    def _clear(self) -> None:
        if jax.process_index() == 0:
            empty_trash(self._folder)
            remove_unfinished(self._folder)

    def _tell_unsaved(self, step: int, reason: str) -> None:
        self._unsaved = reason
        _say(
            f"WARNING: the checkpoint of step {step} could not be written to {self._folder} ({reason}); "
            f"training goes on; the newest on disk is that of step {self.latest_step()}"
        )


def restore_params(folder: str | os.PathLike, step: int | None = None) -> PyTree:
    """The parameters of a checkpoint, verified, as a nested dict of NumPy arrays; nothing on disk is changed.

    Args:
        folder: of the checkpoints of a run.
        step: which; None takes the newest that is not damaged, and tells of those that are.

    Raises:
        InputError: there is no such checkpoint.
        DamagedError: it is damaged, or all are.
    """
    root = Path(folder).expanduser().resolve()
    check_exists(root, step)
    damaged = {}
    for candidate in sorted(steps_in(root), reverse=True) if step is None else [step]:
        try:
            params = _read_params(root / str(candidate))
        except DamagedError as error:
            damaged[candidate] = str(error)
            continue
        for bad, reason in damaged.items():
            _say(f"checkpoint {bad} in {root} is damaged ({reason}); reading {candidate} instead")
        return params
    raise all_damaged(root, damaged)


def _read_params(path: Path) -> PyTree:
    """The parameters at `path`, verified."""
    record = read_record(path / RECORD)
    with _damage():  # a record may describe what cannot be
        params = _read_item(path / PARAMS, record.target(path, PARAMS))
    record.check_content({PARAMS: params})
    return params


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    """Raises what reading damaged files raises, of which TensorStore and orbax have many ways, as DamagedError."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise DamagedError(_first_line(error)) from error


def _items(state: TrainState) -> dict[str, Any]:
    """What is saved, by item."""
    return {PARAMS: state.params, REST: {name: value for name, value in state._asdict().items() if name != PARAMS}}


def _read_item(path: Path, target: PyTree) -> PyTree:
    with patient_loops(), contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        return handler.restore(path, args=ocp.args.StandardRestore(target))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
