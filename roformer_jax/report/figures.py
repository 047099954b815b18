"""Figures as inline SVG, drawn by matplotlib's object interface: no pyplot, no state, the same bytes every time.

Axes are drawn in the page's colours, which become CSS variables in the SVG, and text stays text, so that a figure
follows the theme and the font of its page.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from roformer_jax.report.html import PALETTE, Html, element

_COLOURS = {name: on_paper for name, (on_paper, _) in PALETTE.items()}
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "roformer",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["muted"],
    "axes.labelcolor": _COLOURS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": _COLOURS["muted"],
    "ytick.color": _COLOURS["muted"],
}
# Two lines of text with a little air, in inches of the figure.
_LABEL_INCHES = 0.46


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


def loss_figure(curves: Sequence[Curve], reference: EndLabel, window: int, caption: str) -> Html:
    """Returns training and held-out losses against updates, with a dashed reference loss (nats per masked token)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _reference(axes, reference)
        for curve in curves:
            _train(axes, curve, window)
        ends = [_held_out(axes, curve, "loss", "{:.3f}".format) for curve in curves]
        axes.set(xlabel="update", ylabel="loss (nats per masked token)")
        _label_ends(axes, [reference, *ends])

    return _figure(draw, "pretraining", 3.2, caption)


def classification_figure(curve: Curve, reference: EndLabel, window: int, caption: str) -> Html:
    """Returns held-out accuracy with a dashed reference, above training loss (nats per article), against updates."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        _reference(above, reference)
        end = _held_out(above, curve, "accuracy", "{:.1%}".format)
        above.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        above.set(ylabel="held-out accuracy")
        _label_ends(above, [reference, end])
        _train(below, curve, window)
        below.set(xlabel="update", ylabel="training loss (nats)", ylim=(0, None))

    return _figure(draw, "finetuning", 4.1, caption)


def _train(axes: Axes, curve: Curve, window: int) -> None:
    updates, losses = curve.column("train", "step"), curve.column("train", "loss")
    finite = np.isfinite(losses)  # one nan would blot out all later means
    means = smooth(updates[finite], losses[finite], window)
    axes.plot(updates[finite], means, color=_COLOURS[curve.colour], linewidth=1.1)


def _held_out(axes: Axes, curve: Curve, name: str, form: Callable[[float], str]) -> EndLabel:
    updates, values = curve.column("eval", "step"), curve.column("eval", name)
    style = {"color": _COLOURS[curve.colour], "markeredgecolor": _COLOURS["page"], "markersize": 6.5, "zorder": 3}
    axes.plot(updates, values, curve.marker, clip_on=False, **style)
    return EndLabel(values[-1], f"{curve.label}\n{form(values[-1])}", curve.colour)


def _reference(axes: Axes, label: EndLabel) -> None:
    axes.axhline(label.value, color=_COLOURS[label.colour], linewidth=1.2, linestyle=(0, (5, 4)))


def _label_ends(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Writes each label beside the axes at its value, or as near as the other labels allow."""
    figure, (low, high) = axes.get_figure(), axes.get_ylim()
    axes_inches = figure.get_figheight() / len(figure.axes)
    ordered = sorted(labels)
    heights = spread(np.asarray([label.value for label in ordered]), (high - low) * _LABEL_INCHES / axes_inches)
    for label, height in zip(ordered, heights, strict=True):
        axes.annotate(
            label.text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(9, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=_COLOURS[label.colour],
        )


def _figure(draw: Callable[[Figure], None], name: str, height: float, caption: str) -> Html:
    """Draws a figure `height` inches high as SVG, and returns it with its caption."""
    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # the reader's own matplotlibrc must not change the report
        matplotlib.rcParams.update(_RC)
        figure = Figure(figsize=(5.0, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return element("figure", _inline(buffer.getvalue(), name, caption), element("figcaption", caption))


def _inline(svg: str, name: str, description: str) -> Html:
    """Returns the SVG element alone: no prolog, sizes or style sheet; its ids its own, its colours the page's."""
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    body = svg[svg.index("</defs>") + len("</defs>") :]
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for colour, on_paper in _COLOURS.items():
        body = body.replace(on_paper, f"var(--{colour})")
    return Html(f'<svg {view_box} role="img" aria-label="{escape(description)}">{body}')
