"""The pages of the documentation as the tests read them: blocks, links and headings of Markdown."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "tpu_setup" / "README.md"]
    + [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
)
FENCE = re.compile(r"^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<source>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*([^)\s]+)\s*\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
OPTIONS = re.compile(r"\A(:[^\n]*\n)+\n?")  # of a cell of a notebook
CELL = "{code-cell}"


class Block(NamedTuple):
    """A fenced block: its language, its source, and the line of the page that the source begins on."""

    language: str
    source: str
    line: int


def name(page: Path) -> str:
    """The page as a test is called after it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks; a notebook's cell is python, or what its magic says."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        language, source, line = fence["language"].strip(), fence["source"], text.count("\n", 0, fence.start("source"))
        if language.startswith(CELL):
            options = OPTIONS.match(source)
            line += options[0].count("\n") if options else 0
            source = OPTIONS.sub("", source)
            shell = source.startswith("%%bash\n")
            language, source = ("sh", source.removeprefix("%%bash\n")) if shell else ("python", source)
        yield Block(language, source, line + 1)


def links(page: Path) -> list[str]:
    """The targets of all links and pictures that stay in the repository."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What links to parts of the page may name: headings in lower case, blanks as hyphens, other marks left out."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
