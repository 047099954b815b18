"""Docstrings are written to be read in the source, in the manner of Markdown: here they become reStructuredText."""

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
MARKS = re.compile(r"\\|\*(?! )|\||_(?=\W|$)")
BEFORE_NAPOLEON, AFTER_NAPOLEON = 400, 600  # whose priority is 500
COLON = "\x1f"  # stands for that of a field's description, before which napoleon would look for a type


def as_rst(prose: str) -> str:
    """Returns a paragraph with `code` as literals, and the marks of reStructuredText around it as they stand."""
    pieces, end = [], 0
    for code in CODE.finditer(prose):
        pieces += [MARKS.sub(r"\\\g<0>", prose[end : code.start()]), f"``{code[2]}``"]
        end = code.end()
    return "".join([*pieces, MARKS.sub(r"\\\g<0>", prose[end:])])


def process(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Rewrites the lines of a docstring in place; a paragraph that is indented below one that is not is code."""
    if lines and lines[0].startswith("Alias for field number"):  # what Python says of a NamedTuple's fields
        lines[:] = []
    out, code, before = [], False, " "
    for paragraph in "\n".join(lines).split("\n\n"):
        opens = paragraph.startswith("    ") and not before.split("\n")[-1].startswith(" ")
        code = paragraph.startswith("    ") and (code or opens)
        out.append((".. code-block:: python\n\n" if opens else "") + (paragraph if code else as_rst(paragraph)))
        before = paragraph
    lines[:] = "\n\n".join(out).replace(":", COLON if what == "attribute" else ":").split("\n")


def colons_back(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Undoes what kept colons from napoleon, in place."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the rewriting, before napoleon reads the sections, and what follows it."""
    app.connect("autodoc-process-docstring", process, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", colons_back, priority=AFTER_NAPOLEON)
    return {"parallel_read_safe": True}
