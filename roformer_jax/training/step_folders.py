"""The folders of a run's checkpoints on disk: one for each step, named by its number, and what is no checkpoint."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from roformer_jax.errors import DamagedError, InputError

TRASH = "trash"  # where old checkpoints go, by a rename, before they are removed
DAMAGED = "damaged"  # where damaged ones go, to be looked at
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that is still being written


def steps_in(folder: Path) -> set[int]:
    """Steps that have a folder; another name than a plain number, or a link, which may lead anywhere, is none."""
    if not folder.is_dir():
        return set()
    folders = {path.name for path in folder.iterdir() if path.is_dir() and not path.is_symlink()}
    return {int(name) for name in folders if name.isascii() and name.isdecimal() and name == str(int(name))}


def check_exists(folder: Path, step: int | None) -> None:
    """Look for a checkpoint of `step`, or any.

    Raises:
      InputError: there is none.
    """
    steps = steps_in(folder)
    if not steps:
        raise InputError(f"there is no checkpoint in {folder}")
    if step is not None and step not in steps:
        raise InputError(f"there is no checkpoint of step {step} in {folder}, which holds steps {sorted(steps)}")


def all_damaged(folder: Path, reasons: Mapping[int, str]) -> DamagedError:
    """The error that says so, with the reason of each step."""
    lines = "\n".join(f"  step {step}: {reason}" for step, reason in reasons.items())
    return DamagedError(f"no checkpoint in {folder} holds what was saved; nothing was changed\n{lines}")


def set_aside(folder: Path, step: int) -> Path:
    """Move a damaged checkpoint to `damaged`; returns where it lies there."""
    target = folder / DAMAGED / str(step)
    target.parent.mkdir(exist_ok=True)
    again = 0
    while target.exists():
        again += 1
        target = target.with_name(f"{step}.{again}")
    os.rename(folder / str(step), target)
    return target


def empty_trash(folder: Path) -> None:
    """Remove old checkpoints that have left their place."""
    shutil.rmtree(folder / TRASH, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what was half written."""
    for path in folder.glob(f"*{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)
