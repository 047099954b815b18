"""The command line as a person calls it, with tiny models and made-up text."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from roformer_jax.cli import main

ROOT = Path(__file__).parents[2]
ANIMALS, TOOLS = "ape bat cat dog elk fox gnu hen".split(), "adze bolt cog drill file hoe jack lathe".split()
TINY_MODEL = [
    *["--model.vocab-size", "120", "--model.hidden-size", "16", "--model.num-hidden-layers", "1"],
    *["--model.num-attention-heads", "2", "--model.intermediate-size", "32"],
]
# Runs commands one after another in one process.
DRIVER = """
import contextlib, io, json, os, sys
from roformer_jax.cli import main
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(arguments)
        except SystemExit as stopped:
            code = stopped.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
os._exit(0)  # as `run_process` does
"""


class Outcome(NamedTuple):
    """What a command left behind; the boxes and line breaks of help and error messages are taken out of `text`."""

    code: int
    out: str
    err: str

    @property
    def metrics(self) -> dict[str, float]:
        """What `evaluate` printed, four decimals of each."""
        return {name: float(value) for name, value in map(str.split, self.out.splitlines())}

    @property
    def text(self) -> str:
        return re.sub(r"(\s|[─│╭╮╰╯]|-{3,}|^[|+]|[|+]$)+", " ", self.out + self.err, flags=re.MULTILINE).strip()


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """Of the processes: one device, and programs compiled once for all of them."""
    compiled = str(tmp_path_factory.mktemp("compiled"))
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "COLUMNS": "100",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def process(environment) -> Callable[..., Outcome]:
    """`process("train.py", ...)` runs a command of its own process in the repository's root."""

    def process(*arguments: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, encoding="utf-8"
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return process


@pytest.fixture(scope="session")
def commands(environment) -> Callable[..., list[Outcome]]:
    """`commands(["evaluate", ...], ["predict", ...])` runs several commands in one process, which saves imports."""

    def commands(*all_arguments: list[str]) -> list[Outcome]:
        done = subprocess.run(
            [sys.executable, "-c", DRIVER], input=json.dumps(all_arguments), cwd=ROOT, env=environment,
            capture_output=True, encoding="utf-8",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]

    return commands


@pytest.fixture
def here(capsys, monkeypatch) -> Callable[..., Outcome]:
    """`here("train", ...)` runs a command in this process, in the repository's root, on its eight devices."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")

    def here(*arguments: str) -> Outcome:
        try:
            code = main(arguments)
        except SystemExit as stopped:  # tyro's way to end --help and wrong flags
            code = stopped.code
        return Outcome(code, *capsys.readouterr())

    return here


def sentence(number: int, words: list[str]) -> str:
    """Words in a fixed cycle, so that context tells what a hidden word is."""
    return " ".join(words[(number + k) % len(words)] for k in range(12 + number % 5))


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    """Sixty documents; some write [MASK] and [CLS] as ordinary text."""
    folder = tmp_path_factory.mktemp("texts")
    for i in range(60):
        special = "[MASK] and [CLS] then [SEP]" if i % 10 == 0 else "plainly"
        text = f"document {i} says {special}: {sentence(i, ANIMALS)}. {sentence(i, TOOLS)}.\n"
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def labelled() -> list[dict[str, str]]:
    """Sixty rows: a text about animals or tools, its class, and a score."""
    kinds = [("animal", ANIMALS), ("tool", TOOLS)]
    return [
        {"text": f"note {i}, {sentence(i, kinds[i % 2][1])}", "label": kinds[i % 2][0], "score": str(i % 2 + 0.5)}
        for i in range(60)
    ]


@pytest.fixture(scope="session")
def table(tmp_path_factory, labelled) -> Path:
    """The labelled rows as CSV."""
    path = tmp_path_factory.mktemp("tables") / "notes.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "score"])
        writer.writeheader()
        writer.writerows(labelled)
    return path


@pytest.fixture(scope="session")
def tiny_model() -> list[str]:
    """Flags of a model that is quick to compile."""
    return TINY_MODEL


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def pretraining_flags(texts, cache) -> Callable[..., list[str]]:
    """`pretraining_flags(run, steps=30)`: what makes configs/pretrain_small.py tiny."""

    def flags(run: Path, *, steps: int) -> list[str]:
        return [
            *["--data.path", str(texts), "--data.length", "32", "--data.holdout", "0.2"],
            *["--run-dir", str(run), "--cache-dir", str(cache), *TINY_MODEL],
            *["--optimizer.learning-rate", "1e-2", "--optimizer.warmup", "0", "--optimizer.schedule", "constant"],
            *["--training.batch-size", "8", "--training.steps", str(steps)],
            *["--training.eval-every", "8", "--training.save-every", "10"],
        ]

    return flags


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, process, pretraining_flags) -> Path:
    """The folder of a finished pretraining run of 30 updates."""
    run = tmp_path_factory.mktemp("runs") / "pretrained"
    outcome = process("train.py", "configs/pretrain_small.py", *pretraining_flags(run, steps=30))
    assert outcome.code == 0, outcome.err
    return run


@pytest.fixture
def config_of(tmp_path) -> Callable[[str], str]:
    """`config_of("Glue")`: a config file of that experiment as it is by default, with its folders below `tmp_path`."""

    def config_of(kind: str) -> str:
        module = "pretraining" if kind == "Pretraining" else "finetuning"
        folders = f"run_dir={str(tmp_path / 'run')!r}, cache_dir={str(tmp_path / 'cache')!r}"
        path = tmp_path / f"{kind.lower()}.py"
        lines = [f"from roformer_jax.{module} import {kind}", "", "def get_config():", f"    return {kind}({folders})"]
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)

    return config_of


@pytest.fixture(scope="session")
def tiny_classifier(table, cache) -> Callable[..., list[str]]:
    """`tiny_classifier(run, ...)`: arguments that train a shipped-size model on the labelled rows for eight updates."""

    def arguments(run: Path, *more: str) -> list[str]:
        return [
            *["train", "configs/classify.py", "--data.path", str(table), "--data.holdout", "0.3"],
            *["--run-dir", str(run), "--cache-dir", str(cache), "--length", "48"],
            *["--training.batch-size", "8", "--training.steps", "8", "--training.epochs", "1", *more],
        ]

    return arguments


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, bytes]]:
    """`files(folder)`: every file below the folder and what it holds."""
    return contents
