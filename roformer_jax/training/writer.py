"""Metrics on disk: `metrics.jsonl`, one JSON object per line, and TensorBoard events beside it.

The only file that knows tensorboardX. After a restart the curves go on as if there had been none.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from roformer_jax.errors import InputError

FILE = "metrics.jsonl"
Kind = Literal["train", "eval", "skipped"]


class MetricsWriter:
    """Writes the metrics of a run; a context manager. Only the first process of a run writes, the others do nothing.

    A full disk ends nothing: lines wait in memory until they can be written, and `flush` says so. TensorBoard's file
    lacks what could not be written at once.

    Args:
        folder: the run's folder; made if missing.
        start_step: the step of the checkpoint the run goes on from, 0 for a new run. What an earlier attempt wrote of
            later steps is removed; a new run removes everything.

    Attributes:
        last_evaluation: the last step whose evaluation was kept; -1 where there is none.

    Raises:
        InputError: the file to go on from has a damaged line.
    """

    def __init__(self, folder: str | os.PathLike, *, start_step: int = 0):
        self._active = jax.process_index() == 0
        self.last_evaluation = -1
        if not self._active:
            return
        path = Path(folder) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _cut(path, start_step)
        self.last_evaluation = max((line["step"] for line in kept if line["kind"] == "eval"), default=-1)
        self._file = path.open("ab", buffering=0)
        self._waiting = b""
        self._told = False
        self._events = _Events(folder, start_step + 1 if start_step else 0)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def write(self, step: int, kind: Kind, values: Mapping[str, Any]) -> None:
        """Writes one line, given to the system at once. JSON has no NaN or infinity: they become null."""
        if not self._active:
            return
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        null = {name: None for name, value in numbers.items() if not math.isfinite(value)}
        line = json.dumps({"step": step, "kind": kind, **values, **null}, allow_nan=False)
        self._waiting += line.encode() + b"\n"
        self._write_waiting()
        self._events.add(step, {f"{kind}/{name}": value for name, value in numbers.items()})

    def flush(self) -> bool:
        """Whether all that was written is on the disk, once it is or cannot be."""
        if not self._active:
            return True
        try:
            self._write_waiting()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._tell(error)
        return not self._waiting

    def close(self) -> None:
        """Flushes and closes."""
        if self._active:
            self.flush()
            self._file.close()
            self._events.close()

    def _write_waiting(self) -> None:
        try:
            while self._waiting:  # the system may take a part only
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self._told = False
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            warning = f"WARNING: {self._file.name} cannot be written ({error}); training goes on"
            print(warning, file=sys.stderr, flush=True)
        self._told = True


class _Events:
    """The file of TensorBoard's events; it hides older events from `purge_step` on. A full disk leaves a gap in it."""

    def __init__(self, folder: str | os.PathLike, purge_step: int):
        self._prefix = str(Path(folder) / "events")
        self._writer = None
        self._write(event_pb2.Event(step=purge_step, session_log={"status": event_pb2.SessionLog.START}))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers by tag."""
        summary = {"value": [{"tag": tag, "simple_value": value} for tag, value in values.items()]}
        self._write(event_pb2.Event(step=step, summary=summary))

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        try:
            self._writer = self._writer or EventsWriter(self._prefix, f".{time.time_ns()}")
            self._writer.write_event(event)
            self._writer.flush()
        except OSError:
            self.close()
            self._writer = None  # the next event begins another file: a reader stops where one is torn


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


def _cut(path: Path, last_step: int) -> list[dict]:
    """Removes lines of steps after `last_step`, or all if it is 0, and a half-written one; returns what is kept."""
    numbered = enumerate(_whole_lines(path), 1) if path.exists() and last_step > 0 else []
    parsed = [(line, _parse(path, number, line)) for number, line in numbered]
    kept = [(line, values) for line, values in parsed if values["step"] <= last_step]
    draft = path.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line, _ in kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    return [values for _, values in kept]
