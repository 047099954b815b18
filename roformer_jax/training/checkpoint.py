"""Checkpoints of the training state, written in the background. The only file that knows orbax.

A checkpoint appears under its step's number all at once or not at all; old ones leave by a rename, so that a run killed
at any moment keeps only whole checkpoints. The parameters are an item of their own, readable without the optimizer.
"""

import contextlib
import os

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from roformer_jax.errors import InputError
from roformer_jax.training.state import TrainState
from roformer_jax.typing import PyTree

TRASH = "trash"


class Checkpoints:
    """The checkpoints of one run; a context manager that leaves when the last one is on disk.

    Args:
        folder: a local folder or a gs:// address; made if missing.
        keep: how many of the newest checkpoints stay.
    """

    def __init__(self, folder: str | os.PathLike, *, keep: int = 2):
        self._folder = epath.Path(folder).expanduser().resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, todelete_subdir=TRASH)
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_names=("params", "rest"))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Copies `state` and writes it in the background; the caller may donate its arrays at once.

        Raises:
            InputError: the folder holds a checkpoint of this step or of a later one.
            Exception: the previous background save failed; this is its error.
        """
        self._manager.wait_until_finished()
        self._empty_trash()
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
        )
        if not self._manager.save(step, args=items):
            raise InputError(
                f"{self._folder} holds a checkpoint of step {self.latest_step()}, so step {step} cannot be saved: "
                "remove the newer checkpoints or use another folder"
            )

    def restore(self, target: TrainState, step: int | None = None) -> TrainState:
        """Reads a checkpoint, the newest by default, onto the shapes, dtypes and shardings of `target`.

        Args:
            target: what `abstract` gives; its shardings may be of another mesh than the saved ones.
            step: the step to read.

        Raises:
            InputError: there is no such checkpoint.
        """
        step = _choose_step(self._folder, self._manager.all_steps(), step)
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(target.params),
            rest=ocp.args.StandardRestore({"step": target.step, "opt_state": target.opt_state}),
        )
        restored = self._manager.restore(step, args=items)
        return TrainState(params=restored["params"], **restored["rest"])

    def close(self) -> None:
        """Waits for the background save and raises its error, if any."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._manager.close()
        self._empty_trash()

    def _empty_trash(self) -> None:
        if jax.process_index() == 0:
            (self._folder / TRASH).rmtree(missing_ok=True)


def restore_params(folder: str | os.PathLike, step: int | None = None) -> PyTree:
    """The parameters of a checkpoint, the newest by default, as a nested dict of NumPy arrays.

    Raises:
        InputError: there is no such checkpoint, or it is damaged.
    """
    root = epath.Path(folder).expanduser().resolve()
    steps = ocp.utils.checkpoint_steps(root) if root.exists() else []
    path = root / str(_choose_step(root, steps, step)) / "params"
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
        try:
            saved = handler.metadata(path).tree
            target = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), saved)
            return handler.restore(path, args=ocp.args.StandardRestore(target))
        except (OSError, ValueError) as error:
            raise InputError(f"the checkpoint {path} is damaged: {error}") from error


def _choose_step(folder: epath.Path, steps: list[int], step: int | None) -> int:
    """`step`, or the last of `steps` if it is None."""
    if not steps:
        raise InputError(f"there is no checkpoint in {folder}")
    if step is not None and step not in steps:
        raise InputError(f"there is no checkpoint of step {step} in {folder}, which holds steps {sorted(steps)}")
    return max(steps) if step is None else step
