"""The page of results as one HTML file: its Markdown, its figures, and behind every number the run that made it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from matplotlib.figure import Figure

from roformer_jax.errors import InputError
from roformer_jax.report.figures import COLOURS, Curve, EndLabel, figure_of, inline, label_ends, smooth
from roformer_jax.report.html import Html, element, facts_table, note, page, section

STYLE = (
    "main{max-width:56rem}code{overflow-wrap:anywhere;font-size:.9em}a{color:var(--blue)}"
    "details{border-bottom:1px solid var(--line);padding:.4rem 0}summary{cursor:pointer}"
    ".scroll{margin:1rem 0}.scroll th,.scroll td{overflow-wrap:normal;min-width:4.5rem}td a{white-space:nowrap}"
)
WINDOW = 20  # updates over which the loss of training is averaged


class RunRecord(NamedTuple):
    """A run to report: `rows` are those of its metrics, `metrics` of its last evaluation, `config` in dotted names."""

    name: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, float]
    made: str


def results_page(markdown: str, folder: Path, cells: Mapping[str, Mapping[str, Any]], runs: Sequence[RunRecord]) -> str:
    """The document; the same input gives the same text.

    Args:
        markdown: the page of results; its figures are SVG files.
        folder: where the page lies.
        cells: file of a finished cell, as links of the page name it -> what is in it.
        runs: what is reported beside the page.

    Raises:
        InputError: a figure or a cell of the page is missing.
    """
    body = re.sub(r"<!--.*?-->\n?|^# .*\n", "", markdown, flags=re.MULTILINE)
    behind = [element("details", element("summary", file), facts_table(texts_of(content)), id=anchor(file))
              for file, content in cells.items()]  # fmt: skip
    return page(
        "Results",
        Html(_renderer(folder, cells).render(body)),
        *([section("Other runs", *(_run(run, number) for number, run in enumerate(runs)))] if runs else []),
        *([section("Behind the numbers", note("What every number above leads to."), *behind)] if behind else []),
        style=STYLE,
    )


def anchor(file: str) -> str:
    """The place of a cell in the document."""
    return f"cell-{file.removesuffix('.json')}"


def texts_of(content: Mapping[str, Any]) -> dict[str, str]:
    """Everything in a cell, in dotted names."""
    texts = {}
    for name, value in content.items():
        nested = texts_of(value) if isinstance(value, Mapping) else {"": str(value)}
        texts |= {f"{name}.{inner}" if inner else name: text for inner, text in nested.items()}
    return texts


def _renderer(folder: Path, cells: Mapping[str, Any]) -> MarkdownIt:
    """Of Markdown with tables; figures become part of the document, links to cells lead to their place in it."""

    def image(self: RendererHTML, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
        file, caption = folder / tokens[i].attrs["src"], tokens[i].content
        if not file.exists():
            raise InputError(f"the page of results shows {file}, which is missing: make its table again")
        return inline(file.read_text(encoding="utf-8"), file.stem, caption)

    def link(self: RendererHTML, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
        target = tokens[i].attrs["href"]
        if target in cells:
            tokens[i].attrs["href"] = f"#{anchor(target)}"
        elif target.endswith(".json"):
            raise InputError(f"the page of results leads to {folder / target}, which is missing: make its table again")
        return self.renderToken(tokens, i, options, env)

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", image)
    markdown.add_render_rule("link_open", link)
    markdown.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>")
    return markdown


def _run(run: RunRecord, number: int) -> Html:
    """A run: its loss against updates, its last evaluation, and its config; a name may not be an id."""
    held_out = {name: f"{value:.4f}" for name, value in run.metrics.items()}
    config = element("details", element("summary", "config"), facts_table(texts_of(run.config)))
    training = Curve(run.name, "blue", "o", run.rows)
    figure = figure_of(lambda figure: _losses(figure, training), f"run-{number}", 3.0, "loss against updates")
    return element("section", element("h3", run.name), figure, facts_table({"made": run.made} | held_out), config)


def _losses(figure: Figure, curve: Curve) -> None:
    """Training as a line, evaluations as dots."""
    axes = figure.subplots()
    updates, losses = curve.column("train", "step"), curve.column("train", "loss")
    axes.plot(updates, smooth(updates, losses, WINDOW), color=COLOURS["muted"], linewidth=1.1)
    evaluations = [row for row in curve.rows if row["kind"] == "eval" and "loss" in row]
    axes.set(xlabel="update", ylabel="loss")
    if evaluations:
        values = [row["loss"] for row in evaluations]
        axes.plot([row["step"] for row in evaluations], values, curve.marker, color=COLOURS[curve.colour])
        label_ends(axes, [EndLabel(values[-1], f"held out\n{values[-1]:.3f}", curve.colour)])
