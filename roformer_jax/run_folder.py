"""A run's folder: resolved config, tokenizer and data fingerprint beside the weights; one folder, one run."""

import contextlib
import dataclasses
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TextIO, Union, get_args, get_origin, get_type_hints

from roformer_jax.errors import InputError

CONFIG, DATA, TOKENIZER, RESULTS, CHECKPOINTS, PROFILE, LOCK = (
    "config.json",
    "data.json",
    "tokenizer.json",
    "results.json",
    "checkpoints",
    "profile",
    "lock",
)
# May change between two starts of one run: they do not shape its result.
TOPOLOGY = ("mesh", "cache_dir", "run_dir", "training.profile", "training.max_skipped", "training.keep")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either absent, old or complete."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run; all of them hold one object.

    Raises:
      InputError: the file is missing or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path.parent} is not a run: {path.name} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); the run is damaged") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__} instead of a JSON object; the run is damaged")
    return content


def as_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON values, with the name of its class under `experiment`."""
    return {"experiment": type(config).__name__} | json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(kind: type, values: Mapping[str, Any]) -> Any:
    """The frozen dataclass that `as_json` wrote.

    Raises:
      InputError: a field is unknown or missing (another version wrote the run).
    """
    hints = get_type_hints(kind)
    found = set(values) - {"experiment"}
    if found != set(hints):
        raise InputError(
            f"config of another version: {kind.__name__} has the fields {', '.join(sorted(hints))}; "
            f"unknown: {', '.join(sorted(found - set(hints))) or 'none'}; "
            f"missing: {', '.join(sorted(set(hints) - found)) or 'none'}"
        )

    def convert(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_json(hint, value)
        if get_origin(hint) in (Union, UnionType):
            return None if value is None else convert(next(a for a in get_args(hint) if a is not type(None)), value)
        return tuple(value) if isinstance(value, list) else value

    return kind(**{name: convert(hints[name], value) for name, value in values.items() if name != "experiment"})


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def shaping(values: Mapping[str, Any]) -> dict[str, Any]:
    """What shapes a run's result, as dotted names."""
    return {
        field: value for field, value in flatten(values).items() if not {field, field.split(".")[0]} & set(TOPOLOGY)
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The fields that differ, with both values, in words; empty where none does."""
    changed = [field for field in sorted(set(old) | set(new)) if old.get(field) != new.get(field)]
    return "; ".join(f"{field} was {old.get(field)!r}, now {new.get(field)!r}" for field in changed)


def check_same(folder: Path, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to continue a run under another config or other data, naming the differing fields and both values."""
    if changed := differences(shaping(old), shaping(new)):
        raise InputError(
            f"{folder} holds a run of another {name}: {changed}; "
            "choose another --run-dir, or start it with the old value to continue it"
        )


def check_folder(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether `folder` holds a run of this config to continue.

    Raises:
      InputError: the folder is a file, holds other files, or holds a run of another config.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--run-dir {folder} is a file, not a folder")
    names = {path.name for path in folder.iterdir() if path.suffix != ".partial"} if folder.exists() else set()
    if LOCK in names:
        with (folder / LOCK).open(encoding="utf-8") as file:
            _lock(file, folder)
    if names <= {TOKENIZER, DATA, LOCK}:  # new, or begun by a process that was killed before it wrote its config
        return False
    if CONFIG not in names:
        raise InputError(
            f"--run-dir {folder} is not empty and holds no run ({CONFIG} is missing); choose another folder"
        )
    check_same(folder, "config", read_json(folder / CONFIG), config)
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in `folder`, which is made if missing; the lock ends with the process.

    Raises:
      InputError: another process trains there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--run-dir {folder} cannot be written: {error.strerror}") from error
    with file:
        _lock(file, folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file: TextIO, folder: Path) -> None:
    """Lock the open lock file of a folder until it is closed; says who has it where another process does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise InputError(f"{folder} is in use by {holder}; wait for its end or stop it") from None


def check_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Refuse to continue the run in `folder`, if there is one, on other data."""
    if (folder / CONFIG).exists():
        check_same(folder, "data", read_json(folder / DATA), data)


def open_folder(folder: Path, config: Mapping[str, Any], data: Mapping[str, Any], tokenizer: Any) -> None:
    """Write what describes a run into its (locked) folder, or check that the run there is this one; config last."""
    if (folder / CONFIG).exists():
        check_same(folder, "config", read_json(folder / CONFIG), config)
        check_data(folder, data)
        return
    try:
        tokenizer.save(folder / TOKENIZER)
        write_json(folder / DATA, data)
        write_json(folder / CONFIG, config)
    except OSError as error:
        raise InputError(f"--run-dir {folder} cannot be written: {error.strerror}") from error
