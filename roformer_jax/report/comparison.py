"""Curves of runs that differ in their position encoding, with bands of a standard deviation over the seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from roformer_jax.report.figures import COLOURS, EndLabel, label_ends, save_figure, themed_figure

LINES = ("blue", "orange", "ink", "muted")  # of the palette, for the first encodings; then from the start, dashed
WIDTH, HEIGHT = 6.4, 3.4  # inches

Rows = Sequence[Mapping[str, object]]


def draw_curves(file: Path, runs: Mapping[str, Sequence[Rows]], metric: str) -> None:
    """Draws the metric of every evaluation against updates: a line through the means of seeds, a band of a deviation.

    Args:
        file: the SVG to write, absent or complete.
        runs: position encoding -> for every seed, its evaluations, in order.
        metric: a column of the evaluations. The one before the first update is left out: it would set the scale.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with themed_figure(WIDTH, HEIGHT) as figure:
        axes, ends = figure.subplots(), []
        for i, (encoding, seeds) in enumerate(runs.items()):
            colour, style = LINES[i % len(LINES)], "-" if i < len(LINES) else "--"
            evaluations = [[row for row in rows if row["step"] > 0] for rows in seeds]
            updates = np.array([row["step"] for row in evaluations[0]])
            values = np.array([[row[metric] for row in rows] for rows in evaluations], np.float64)
            mean = values.mean(axis=0)
            axes.plot(updates, mean, style, color=COLOURS[colour], linewidth=1.6)
            if len(values) > 1:
                band = values.std(axis=0, ddof=1)
                axes.fill_between(updates, mean - band, mean + band, color=COLOURS[colour], alpha=0.2, linewidth=0)
            ends.append(EndLabel(mean[-1], f"{encoding} {mean[-1]:.3f}", colour))
        axes.set(xlabel="update", ylabel=metric.replace("_", " "))
        label_ends(axes, ends)
        save_figure(figure, file)
