"""The curve of loss against length."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from roformer_jax.errors import InputError
from roformer_jax.lengths import Measured
from roformer_jax.report.comparison import LINES
from roformer_jax.report.figures import COLOURS, EndLabel, label_ends, save_figure, themed_figure

WIDTH, HEIGHT = 6.4, 3.6  # inches


def draw_lengths(folder: Path, points: Sequence[Measured], trained: int) -> list[Path]:
    """Draws every curve, with the trained length as a dashed line, as loss-against-length.svg and .png in a folder.

    Raises:
      InputError: no point has a value.
    """
    measured = [point for point in points if point.value is not None]
    if not measured:
        raise InputError("there is no curve to draw: the learned positions of every run end before these lengths")
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"loss-against-length{suffix}" for suffix in (".svg", ".png")]
    curves: dict[str, list[Measured]] = {}
    for point in measured:
        curves.setdefault(point.label, []).append(point)
    lengths = sorted({point.length for point in points})
    with themed_figure(WIDTH, HEIGHT) as figure:
        axes, ends = figure.subplots(), []
        for i, (label, curve) in enumerate(curves.items()):
            colour, style = LINES[i % len(LINES)], ("-", "--", ":", "-.")[i // len(LINES) % 4]
            values = [point.value for point in curve]
            axes.plot([p.length for p in curve], values, style, marker="o", markersize=3.5, color=COLOURS[colour])
            ends.append(EndLabel(values[-1], f"{label} {values[-1]:.3f}", colour))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(lengths))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: f"{length:,.0f}"))
        axes.axvline(trained, color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (5, 4)))
        axes.set_title(
            f"trained on rows of {trained:,} tokens (dashed)", loc="left", fontsize=10, color=COLOURS["muted"]
        )
        axes.set(xlabel="length of a row (tokens)", ylabel=measured[0].metric.replace("_", " "))
        label_ends(axes, ends)
        for file in files:
            save_figure(figure, file)
    return files
