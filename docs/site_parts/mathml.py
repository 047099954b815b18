"""Formulas as MathML, which browsers draw themselves: no script and no font is loaded."""

from docutils import nodes
from math_core import LatexToMathML
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

TO_MATHML = LatexToMathML(annotation=True)


def visit_inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Writes a formula within a line."""
    writer.body.append(TO_MATHML.convert_with_local_state(node.astext(), displaystyle=False))
    raise nodes.SkipNode


def visit_display(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Writes a formula of its own, in a box that scrolls where it is too wide."""
    formula = TO_MATHML.convert_with_local_state(node.astext(), displaystyle=True)
    writer.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer, called mathml."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True}
