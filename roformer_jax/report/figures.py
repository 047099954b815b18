"""Figures by matplotlib's object interface, as inline SVG: no pyplot, no state, the same bytes every time.

In a report, the colours of the axes become CSS variables in the SVG, and text stays text, so that a figure follows the
theme and the font of its page.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from roformer_jax.report.html import PALETTE, Html, element

COLOURS = {name: on_paper for name, (on_paper, _) in PALETTE.items()}
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "roformer",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "text.color": COLOURS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
}
DOTS_PER_INCH = 200
_LINE_INCHES = 0.23  # a line of a label with a little air, in inches of the figure


class Curve(NamedTuple):
    """The rows of one metrics.jsonl, with the name, colour (of the palette) and marker to draw them."""

    label: str
    colour: str
    marker: str
    rows: Sequence[Mapping[str, object]]

    def column(self, kind: str, name: str) -> Float[np.ndarray, " rows"]:
        """Returns one column of the rows of a kind ("train" or "eval"), in file order."""
        return np.asarray([row[name] for row in self.rows if row["kind"] == kind], np.float64)


class EndLabel(NamedTuple):
    """A text at the right end of a line, at the line's last value, in a colour of the palette."""

    value: float
    text: str
    colour: str


def smooth(
    updates: Float[np.ndarray, " rows"], values: Float[np.ndarray, " rows"], window: int
) -> Float[np.ndarray, " rows"]:
    """Returns at each update the mean of the values of the last `window` updates, its own included."""
    first = np.searchsorted(updates, updates - window, side="right")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    return (sums[end] - sums[first]) / (end - first)


def spread(values: Float[np.ndarray, " labels"], gap: float) -> Float[np.ndarray, " labels"]:
    """Returns ascending values at least `gap` apart, moved as little as that allows in the sum of squares.

    This is the isotonic regression of `values - gap * index`, by its min-max formula (Robertson et al. 1988).
    """
    offsets = gap * np.arange(len(values))
    free = values - offsets
    ends = range(len(values))
    return offsets + [max(min(free[j : k + 1].mean() for k in ends[i:]) for j in ends[: i + 1]) for i in ends]


@contextmanager
def themed_figure(width: float, height: float) -> Iterator[Figure]:
    """Gives an empty figure, of a size in inches, in the look of the reports; draw and save it within the block."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the reader's own matplotlibrc must not change a figure
        matplotlib.rcParams.update(_RC)
        yield Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, file: Path) -> None:
    """Writes a figure, SVG or PNG by the file's name, so that the file is absent, old or complete."""
    draft = file.with_name(f".partial-{file.name}")
    metadata = {"Date": None} if file.suffix == ".svg" else None  # the same bytes every time
    figure.savefig(draft, dpi=DOTS_PER_INCH, facecolor=COLOURS["page"], metadata=metadata)
    draft.replace(file)


def label_ends(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Writes each label beside the axes at its value, or as near as the other labels allow."""
    figure, scale = axes.get_figure(), axes.yaxis.get_transform()
    low, high = scale.transform(np.asarray(axes.get_ylim()))
    ordered = sorted(labels)
    fractions = (scale.transform(np.asarray([label.value for label in ordered])) - low) / (high - low)
    lines = max(label.text.count("\n") + 1 for label in ordered)
    gap = lines * _LINE_INCHES * len(figure.axes) / figure.get_figheight()
    for label, height in zip(ordered, spread(fractions, gap), strict=True):
        axes.annotate(
            label.text,
            (1, height),
            xycoords="axes fraction",
            xytext=(9, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=COLOURS[label.colour],
        )


def loss_figure(curves: Sequence[Curve], reference: EndLabel, window: int, caption: str) -> Html:
    """Returns training and held-out losses against updates, with a dashed reference loss (nats per masked token)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _reference(axes, reference)
        for curve in curves:
            _train(axes, curve, window)
        ends = [_held_out(axes, curve, "loss", "{:.3f}".format) for curve in curves]
        axes.set(xlabel="update", ylabel="loss (nats per masked token)")
        label_ends(axes, [reference, *ends])

    return figure_of(draw, "pretraining", 3.2, caption)


def classification_figure(curve: Curve, reference: EndLabel, window: int, caption: str) -> Html:
    """Returns held-out accuracy with a dashed reference, above training loss (nats per article), against updates."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        _reference(above, reference)
        end = _held_out(above, curve, "accuracy", "{:.1%}".format)
        above.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        above.set(ylabel="held-out accuracy")
        label_ends(above, [reference, end])
        _train(below, curve, window)
        below.set(xlabel="update", ylabel="training loss (nats)", ylim=(0, None))

    return figure_of(draw, "finetuning", 4.1, caption)


def _train(axes: Axes, curve: Curve, window: int) -> None:
    updates, losses = curve.column("train", "step"), curve.column("train", "loss")
    finite = np.isfinite(losses)  # one nan would blot out all later means
    means = smooth(updates[finite], losses[finite], window)
    axes.plot(updates[finite], means, color=COLOURS[curve.colour], linewidth=1.1)


def _held_out(axes: Axes, curve: Curve, name: str, form: Callable[[float], str]) -> EndLabel:
    updates, values = curve.column("eval", "step"), curve.column("eval", name)
    style = {"color": COLOURS[curve.colour], "markeredgecolor": COLOURS["page"], "markersize": 6.5, "zorder": 3}
    axes.plot(updates, values, curve.marker, clip_on=False, **style)
    return EndLabel(values[-1], f"{curve.label}\n{form(values[-1])}", curve.colour)


def _reference(axes: Axes, label: EndLabel) -> None:
    axes.axhline(label.value, color=COLOURS[label.colour], linewidth=1.2, linestyle=(0, (5, 4)))


def figure_of(draw: Callable[[Figure], None], name: str, height: float, caption: str) -> Html:
    """Draws a figure `height` inches high as SVG, and returns it with its caption."""
    buffer = io.StringIO()
    with themed_figure(5.0, height) as figure:
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return element("figure", inline(buffer.getvalue(), name, caption), element("figcaption", caption))


def inline(svg: str, name: str, description: str) -> Html:
    """Returns the SVG element alone: no prolog, sizes or style sheet; its ids its own, its colours the page's."""
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    body = svg[svg.index("</defs>") + len("</defs>") :]
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, on_paper in COLOURS.items():
        body = body.replace(on_paper, f"var(--{colour})")
    return Html(f'<svg {view_box} role="img" aria-label="{escape(description)}">{body}')
