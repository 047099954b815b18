"""The blocks of the documentation name what exists: imports, commands, configs, flags and files.

Nothing is run here: test_examples.py runs the Python of the guides, and `make docs` the notebooks.
"""

import ast
import dataclasses
import functools
import importlib.util
import re
import shlex

import pytest

from roformer_jax.cli import COMMANDS
from roformer_jax.commands.parsing import load_config
from tests.docs.pages import PAGES, ROOT, blocks, name

COMMAND = re.compile(r"python -m roformer_jax ([a-z]\w*)")
CONFIG = re.compile(r"\bconfigs/\w+\.py")
BENCHMARK = re.compile(r"python -m benchmarks\.(\w+)")
SCRIPT = re.compile(r"\btpu_setup/[\w/]+\.\w+")
TARGET = re.compile(r"(?:^|`)make ([a-z][\w-]*)", re.MULTILINE)
TRAIN = re.compile(r"python train\.py (configs/\w+\.py)((?:[^\n`|&\\]|\\\n)*)")
DIAGRAMS = {"flowchart", "sequenceDiagram", "classDiagram", "stateDiagram-v2", "erDiagram", "gantt", "timeline"}
SHELL_COMMENT = re.compile(r"(?:^|\s)#.*")
PROCESSES = {"distributed", "coordinator", "processes", "process-id", "help"}  # flags of train that are no fields


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles_and_imports_what_the_package_has(page):
    for block in blocks(page):
        if block.language == "python":
            for module, names in imports("\n" * (block.line - 1) + block.source, page):
                found = importlib.import_module(module)
                missing = [part for part in names if not hasattr(found, part) and not is_module(module, part)]
                assert not missing, f"{module} has no {missing}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_configs_and_scripts_exist(page):
    text = page.read_text(encoding="utf-8")
    assert not set(COMMAND.findall(text)) - set(COMMANDS)
    files = CONFIG.findall(text) + SCRIPT.findall(text) + [f"benchmarks/{part}.py" for part in BENCHMARK.findall(text)]
    assert not [file for file in files if not (ROOT / file).is_file()]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert not set(TARGET.findall(text)) - set(targets)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_of_train_are_fields_of_the_config(page):
    for config, arguments in TRAIN.findall(page.read_text(encoding="utf-8")):
        words = shlex.split(SHELL_COMMENT.sub("", arguments.replace("\\\n", " ")))
        fields = fields_of_config(config)
        flags = {word.removeprefix("--").split("=")[0] for word in words if word.startswith("--")}
        assert not {flag.replace("-", "_") for flag in flags - PROCESSES} - fields, config


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_diagrams_are_of_a_kind_that_mermaid_knows(page):
    for block in blocks(page):
        if block.language == "mermaid":
            assert block.source.split()[0] in DIAGRAMS
            assert "accTitle:" in block.source


def imports(source, page):
    """(module, names) of every import from the package in a block."""
    for node in ast.walk(ast.parse(source, str(page))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "roformer_jax":
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.split(".")[0] == "roformer_jax")


@functools.cache
def fields_of_config(file):
    return fields_of(load_config(ROOT / file))


def is_module(package, part):
    return importlib.util.find_spec(f"{package}.{part}") is not None


def fields_of(config, prefix=""):
    """The dotted names of all fields of a config and of its parts."""
    names = set()
    for field in dataclasses.fields(config):
        names.add(prefix + field.name)
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names |= fields_of(value, f"{prefix}{field.name}.")
    return names
