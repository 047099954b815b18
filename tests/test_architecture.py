"""The picture of the rooms is true: who imports whom, what is confined where, and what the library loads."""

import ast
import functools
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "roformer_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOOR = {"typing", "errors", "fields", "sharding"}
MAY_IMPORT = {  # room or top-level module -> what of the package it may import, besides the floor and itself
    "typing": set(),
    "errors": set(),
    "fields": set(),
    "sharding": set(),
    "rope": set(),
    "attention": {"rope"},
    "models": {"rope", "attention"},
    "data": set(),
    "training": {"distributed"},
    "interop": {"rope", "models", "data"},
    "distributed": set(),
    "hardware": {"models"},
    "flops": {"models"},
    "tasks": {"models", "data", "training", "flops"},
    "run_folder": set(),
    "warm_start": {"models", "training", "run_folder", "data", "interop"},
    "update": {"tasks", "training"},
    "experiment": {"models", "tasks", "training", "distributed", "run_folder", "warm_start", "hardware", "update"},
    "pretraining": {"data", "models", "tasks", "training", "run_folder", "warm_start", "experiment"},
    "stages": {"pretraining", "run_folder"},
    "finetuning": {"data", "models", "tasks", "experiment"},
    "language_modelling": {"models", "tasks", "experiment"},
    "translation": {"data", "models", "tasks", "training", "run_folder", "experiment"},
    "trained": {
        "data", "models", "tasks", "training", "run_folder",
        "experiment", "pretraining", "finetuning", "language_modelling", "translation",
    },
    "planning": {"models", "tasks", "experiment", "hardware", "update"},
    "generation": {"data", "models", "run_folder", "language_modelling", "trained"},
    "lengths": {"experiment", "pretraining", "language_modelling", "trained"},
    "spectrum": {"rope"},
    "report": {"rope", "spectrum", "lengths"},
    "cells": {"training", "distributed", "run_folder", "experiment"},
    "comparison": {"training", "experiment", "cells", "lengths", "report"},
    "pretrained_comparison": {"run_folder", "finetuning", "stages", "comparison"},
    "translation_comparison": {"comparison", "run_folder", "translation"},
    "glue_table": {
        "data", "training", "distributed", "run_folder", "warm_start", "experiment", "pretraining", "finetuning",
        "report", "cells",
    },
    "results": {"rope", "training", "run_folder", "cells", "report"},
    "quickstart": {
        "data", "models", "tasks", "training", "run_folder",
        "experiment", "pretraining", "finetuning", "trained", "report",
    },
    "model_card": {"training", "run_folder", "experiment"},
    "exchange": {
        "data", "interop", "models", "tasks", "training", "run_folder",
        "experiment", "pretraining", "finetuning", "language_modelling", "trained", "model_card",
    },
    "commands": {
        "distributed", "planning", "report", "trained", "generation", "lengths", "spectrum", "exchange", "cells",
        "results", "stages",
    },
    "cli": {"commands", "distributed"},
    "__main__": {"cli"},
    "__init__": set(),
}  # fmt: skip
LIGHT = {"jax", "numpy", "jaxtyping"}  # what `pip install roformer-jax` brings
CONFINED = {  # third-party name -> the only places that may import it
    "flax": {"models"},
    "optax": {"training", "update.py", "exchange.py"},
    "orbax": {"training/checkpoint.py"},
    "tensorflow_datasets": {"data/tfds_source.py"},
    "array_record": {"data/rows.py"},
    "grain": {"data/batches.py"},
    "tokenizers": {"data/tokenizer.py"},
    "markdown_it": {"report/results_page.py"},
    "rjieba": {"data/chinese.py"},
    "safetensors": {"interop"},
    "rich": {"training/progress.py"},
    "tensorboardX": {"training/writer.py"},
    "matplotlib": {"report"},
    "sklearn": {"quickstart.py"},
    "sacrebleu": {"tasks/bleu.py"},
    "tyro": {"commands"},
    "tensorflow": set(),
}


@functools.cache
def imports(path):
    """(module, names) of every import statement, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module, tuple(alias.name for alias in node.names)))
    return found


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported(path):
    for module, names in imports(path):
        if module == "roformer_jax":
            yield from (name for name in names if not name.startswith("__"))
        elif module.startswith("roformer_jax."):
            yield module.split(".")[1]


def third_party(path):
    for module, _ in imports(path):
        top = module.split(".")[0]
        if top not in sys.stdlib_module_names and top != "roformer_jax":
            yield top


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestEveryModule:
    def test_imports_only_the_rooms_below_it(self, path):
        allowed = MAY_IMPORT[room(path)] | FLOOR | {room(path)}
        assert set(rooms_imported(path)) <= allowed

    def test_keeps_confined_libraries_where_they_belong(self, path):
        place = str(path.relative_to(PACKAGE))
        for name in set(third_party(path)) & set(CONFINED):
            assert place in CONFINED[name] or room(path) in CONFINED[name], f"{place} imports {name}"

    def test_fits_on_a_few_screens(self, path):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300

    def test_is_imported_or_is_an_entry(self, path):
        name = ".".join(("roformer_jax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        entries = {"roformer_jax", "roformer_jax.cli", "roformer_jax.__main__"}
        users = [other for other in [*MODULES, *sorted((ROOT / "configs").glob("*.py"))] if other != path]
        imported = {
            full
            for other in users
            for module, names in imports(other)
            for full in (module, *(f"{module}.{attribute}" for attribute in names))
        }
        package_of_something = any(module.startswith(f"{name}.") for module in imported)
        assert name in entries | imported or package_of_something, f"nothing imports {name}"


def test_every_room_has_its_rule():
    assert {room(path) for path in MODULES} == set(MAY_IMPORT)


def test_the_rules_have_no_cycle():
    done = set(FLOOR)
    left = {name: rooms for name, rooms in MAY_IMPORT.items() if name not in done}
    while left:
        ready = {name for name, rooms in left.items() if rooms <= done}
        assert ready, f"cycle among {sorted(left)}"
        done |= ready
        left = {name: rooms for name, rooms in left.items() if name not in ready}


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) in ("rope", "attention")], ids=lambda p: p.name)
def test_the_library_rooms_need_only_the_base_install(path):
    assert set(third_party(path)) <= LIGHT


def test_the_base_install_is_what_the_library_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {dependency.split(">")[0].split("=")[0] for dependency in project["dependencies"]} == LIGHT


def test_importing_the_library_loads_nothing_heavy_and_starts_no_backend():
    heavy = sorted(set(CONFINED) | {"chex", "scipy.stats", "jax.experimental.pallas", "roformer_jax.models"})
    script = (
        "import sys, roformer_jax.rope, roformer_jax.attention\n"
        "from jax._src import xla_bridge\n"
        f"loaded = [name for name in {heavy} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, cwd="/")


def test_every_config_says_how_to_run_it_and_on_what():
    for path in sorted((ROOT / "configs").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert f"configs/{path.name}" in docstring, f"{path.name}: no command in its docstring"
        assert "Devices:" in docstring, f"{path.name}: no devices in its docstring"
