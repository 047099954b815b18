"""Runs that are ended, damaged and watched, of the real command line: few in `make test`, many in `make stress`."""

import itertools
import json
import os
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from roformer_jax.trained import load_experiment
from roformer_jax.training.checkpoint import Checkpoints, restore_params
from roformer_jax.training.optimizer import make_optimizer
from roformer_jax.training.state import abstract, create_state
from roformer_jax.training.writer import read_metrics
from tests.end_to_end.conftest import (
    ROOT,
    cache,
    commands,
    contents,
    environment,
    pretraining_flags,
    process,
    texts,
)
from tests.reliability.saved import BEFORE, NEWEST, bytes_of, make_state, said

__all__ = ["cache", "commands", "environment", "pretraining_flags", "process", "texts"]  # fixtures

SHIPPED = ROOT / "configs" / "pretrain_small.py"
TIMES = {"seconds", "tokens_per_second", "tokens_per_second_per_device", "model_tflops", "data_wait_seconds"}
# The shipped experiment, with lines to be executed before the batch of each update is handed out.
WATCHED = '''
import hashlib, os, signal, time
from pathlib import Path
from roformer_jax import pretraining
from configs.pretrain_small import get_config as shipped

class Pretraining(pretraining.Pretraining):
    """Masked-LM pretraining."""

    def prepare(self, mesh):
        task = super().prepare(mesh)
        iterate = task.batches.iterate

        def watched(start, stop):
            for update, batch in enumerate(iterate(start, stop), start + 1):
{action}
                yield batch

        task.batches.iterate = watched
        return task

def get_config():
    return Pretraining(**vars(shipped()))
'''


@pytest.fixture(scope="session")
def count() -> Callable[[int, int], int]:
    """`count(3, 25)`: 3 in `make test`, 25 in `make stress`."""
    return lambda few, many: many if os.environ.get("STRESS") else few


@pytest.fixture(scope="session")
def tiny_run(pretraining_flags) -> Callable[..., list[str]]:
    """`tiny_run(run, steps=40)`: arguments of `train`: a config, and what makes it tiny; later flags win."""

    def arguments(run: Path, *more: str, steps: int, config: Path = SHIPPED) -> list[str]:
        return [str(config), *pretraining_flags(run, steps=steps), *more]

    return arguments


@pytest.fixture(scope="session")
def watched(tmp_path_factory) -> Callable[..., Path]:
    """`watched("time.sleep(0.1)")`: the shipped config, with lines to be executed before each update.

    They know the number of the update as `update` (from 1) and what it trains on as `batch`. Runs of all these configs
    are of one kind: any of them goes on where another ended.
    """

    def watched(*lines: str) -> Path:
        config = tmp_path_factory.mktemp("configs") / "watched.py"
        config.write_text(WATCHED.format(action=textwrap.indent("\n".join(lines), " " * 16)), encoding="utf-8")
        return config

    return watched


def state_of(run: Path):
    """The newest checkpoint of a run: parameters, optimizer state and step."""
    folder = run / "checkpoints"
    params = jax.device_put(restore_params(folder))
    experiment = load_experiment(run)
    optimizer = make_optimizer(experiment.optimizer, experiment.training.steps, params)
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(abstract(create_state(params, optimizer)), checkpoints.latest_step())


def bits(run: Path):
    """The bytes of every array of the newest checkpoint: parameters, optimizer state and step."""
    return jax.tree.map(lambda leaf: np.frombuffer(np.asarray(leaf).tobytes(), np.uint8), state_of(run))


def without_times(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, but for how long things took."""
    return [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(run)]


def assert_same_run(run: Path, reference: Path) -> None:
    """The run ended in bitwise the state of `reference`, with the same metrics and results, and each update once."""
    chex.assert_trees_all_equal(bits(run), bits(reference))
    assert without_times(run) == without_times(reference)
    steps = load_experiment(run).training.steps
    assert [line["step"] for line in read_metrics(run) if line["kind"] == "train"] == list(range(1, steps + 1))
    results = [json.loads((folder / "results.json").read_text())["metrics"] for folder in (run, reference)]
    assert results[0] == results[1]


@pytest.fixture(scope="session")
def states():
    """The two saved states by step."""
    return {step: make_state(step) for step in (BEFORE, NEWEST)}


@pytest.fixture(scope="session")
def saved(tmp_path_factory, states):
    """A folder that holds a checkpoint of both."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state)
    return folder


@pytest.fixture
def copy(tmp_path, saved):
    """`copy()`: another copy of both checkpoints."""

    numbers = itertools.count()

    def copy():
        return shutil.copytree(saved, tmp_path / str(next(numbers)) / "checkpoints")

    return copy


@pytest.fixture
def assert_recovers(states, capfd):
    """`assert_recovers(folder)`: both ways to read give one of the two states, and say so; returns its step and why."""

    def assert_recovers(folder):
        before, _ = contents(folder), capfd.readouterr()
        params = restore_params(folder)
        warning = said(capfd)
        assert contents(folder) == before, "who only reads changes nothing"
        step = BEFORE if warning else NEWEST
        if warning:
            found = rf"checkpoint {NEWEST} in {folder} is damaged \((.+)\); reading {BEFORE} instead\n"
            assert re.fullmatch(found, warning), warning
        assert bytes_of(params) == bytes_of(states[step].params)

        with Checkpoints(folder) as checkpoints:
            state = checkpoints.restore_newest(abstract(states[NEWEST]))
            warning = said(capfd)
            step = BEFORE if warning else NEWEST
            assert bytes_of(state) == bytes_of(states[step])
            assert checkpoints.latest_step() == step
        if not warning:
            assert not (folder / "damaged").exists()
            return NEWEST, ""
        set_aside = rf"checkpoint {NEWEST} is damaged \((.+)\): moved to {folder}/damaged; going back to {BEFORE}\n"
        assert re.fullmatch(set_aside, warning), warning
        moved = {name: content for name, content in before.items() if name.startswith(f"{NEWEST}/")}
        assert contents(folder / "damaged") == moved, "what is damaged is kept as it was"
        return BEFORE, re.fullmatch(set_aside, warning)[1]

    return assert_recovers
