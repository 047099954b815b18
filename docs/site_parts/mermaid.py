"""Mermaid diagrams as SVG in the page, drawn by Mermaid itself at build time: the reader's browser runs no script.

One drawing serves both themes: its colours are those of the page, in _static/site.css.
"""

import re
from html import escape

import mermaidx
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Mermaid(SphinxDirective):
    """A fenced block of Mermaid; `alt` says in words what it shows."""

    has_content = True
    option_spec = {"alt": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Draws it."""
        source = "\n".join(self.content)
        title = re.search(r"accTitle: *(.*)", source)
        svg = drawing(source, f"diagram-{self.env.new_serialno('mermaid')}")
        label = f' aria-label="{escape(title[1])}"' if title else ""
        return [nodes.raw("", f'<div class="diagram" tabindex="0"{label}>{svg}</div>', format="html")]


def drawing(source: str, name: str) -> str:
    """Returns the SVG element without a style of its own, with ids that no other on the page has."""
    svg = mermaidx.render(source).svg()
    return svg.replace("my-svg", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive, which a fence of this name is too."""
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True}
