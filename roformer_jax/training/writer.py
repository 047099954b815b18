"""Metrics on disk: `metrics.jsonl`, one JSON object per line, and TensorBoard events beside it.

The only file that knows tensorboardX. After a restart the curves go on as if there had been none.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import jax
import tensorboardX

from roformer_jax.errors import InputError

FILE = "metrics.jsonl"
Kind = Literal["train", "eval"]


class MetricsWriter:
    """Writes the metrics of a run; a context manager. Only the first process of a run writes, the others do nothing.

    Args:
        folder: the run's folder; made if missing.
        start_step: the step of the checkpoint the run goes on from, 0 for a new run. What an earlier attempt wrote of
            later steps is removed; a new run removes everything.

    Raises:
        InputError: the file to go on from has a damaged line.
    """

    def __init__(self, folder: str | os.PathLike, *, start_step: int = 0):
        self._active = jax.process_index() == 0
        if not self._active:
            return
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._events = tensorboardX.SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else 0)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def write(self, step: int, kind: Kind, values: Mapping[str, float]) -> None:
        """Writes one line, flushed to the system. JSON has no NaN or infinity: they become null."""
        if not self._active:
            return
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "kind": kind, **numbers}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Returns when all that was written is on the disk."""
        if self._active:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes."""
        if self._active:
            self.flush()
            self._file.close()
            self._events.close()


def read_metrics(folder: str | os.PathLike) -> list[dict]:
    """The lines of `metrics.jsonl` in order, null as NaN; a last line still being written is left out.

    Raises:
        InputError: there is no such file, or a line in it is not a JSON object with "step" and "kind".
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise InputError(f"there is no {path}: is {folder} the folder of a run?")
    return [_parse(path, number, line) for number, line in enumerate(_whole_lines(path), 1)]


def _whole_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _parse(path: Path, number: int, line: str) -> dict:
    try:
        values = json.loads(line)
        return {"step": values["step"], "kind": values["kind"]} | {
            name: math.nan if value is None else value for name, value in values.items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f'{path}, line {number}: not a JSON object with "step" and "kind": {line[:80]!r}') from error


def _cut(path: Path, last_step: int) -> None:
    """Removes lines of steps after `last_step`, or all if it is 0, and a half-written one: in one rename."""
    numbered = enumerate(_whole_lines(path), 1) if path.exists() and last_step > 0 else []
    kept = [line + "\n" for number, line in numbered if _parse(path, number, line)["step"] <= last_step]
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
