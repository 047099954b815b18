"""What the documentation shows is true: every block of Python runs and prints what is written below it."""

import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

from roformer_jax import rope

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OPTIONAL = ("flax", "equinox")  # frameworks that a page may show and a reader may not have
BLOCK = re.compile(r"^```python\n(?P<source>.*?)^```\n(\n```text\n(?P<printed>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_after_those_before_it_and_prints_what_is_shown(page, subtests):
    text = page.read_text(encoding="utf-8")
    namespace = {}
    for block in BLOCK.finditer(text):
        lines_before = text.count("\n", 0, block.start("source"))
        with subtests.test(f"line {lines_before + 1}"):
            code = compile("\n" * lines_before + block["source"], str(page), "exec")
            with skipped_without_its_framework():
                printed = printed_by(code, namespace)
            if block["printed"] is not None:
                assert printed == block["printed"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_block_of_python_escapes_the_search(page):
    text = page.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == text.count("```python")


def test_every_public_name_is_on_the_page_of_the_library():
    text = (DOCS / "rope.md").read_text(encoding="utf-8")
    assert not [name for name in rope.__all__ if not re.search(rf"\b{name}\b", text)]


def printed_by(code, namespace):
    printed = io.StringIO()
    # The reader's JAX promotes ranks, as it does unless told otherwise.
    with jax.numpy_rank_promotion("allow"), contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


@contextlib.contextmanager
def skipped_without_its_framework():
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] not in OPTIONAL:
            raise
        pytest.skip(str(error))
