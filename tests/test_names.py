"""Every name that code looks up exists: ruff does not say it, since the shapes in annotations are names that do not."""

import builtins
import dis
from pathlib import Path
from types import CodeType

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("roformer_jax", "configs", "benchmarks", "tests")
FILES = [ROOT / "train.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
IN_EVERY_MODULE = {*dir(builtins), "__file__", "__annotations__"}


def code_within(code: CodeType):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_within(constant)


def unknown_names(source: str, name: str) -> set[str]:
    module = compile(source, name, "exec", dont_inherit=True)
    known, wanted = set(IN_EVERY_MODULE), set()
    for code in code_within(module):
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                wanted.add(instruction.argval)
            elif instruction.opname in ("STORE_GLOBAL", "STORE_NAME"):  # of the module, or of a class in it
                known.add(instruction.argval)
    return wanted - known


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_that_is_looked_up_is_imported_or_defined(path):
    assert not unknown_names(path.read_text(encoding="utf-8"), str(path))


def test_a_name_that_is_not_there_is_found():
    assert unknown_names("def f(x: int) -> int:\n    return missing(x)", "made up") == {"missing"}
