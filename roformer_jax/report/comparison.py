"""Curves of runs that differ in their position encoding, with bands over the seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from roformer_jax.report.figures import COLOURS, EndLabel, label_ends, themed_figure

LINES = ("blue", "orange", "ink", "muted")  # of the palette, for the first encodings; then from the start, dashed
WIDTH, HEIGHT = 6.4, 3.4  # inches

Rows = Sequence[Mapping[str, object]]


def draw_curves(file: Path, runs: Mapping[str, Sequence[Rows]], metric: str) -> None:
    """Draws the metric of every evaluation against updates: a line through the means of seeds, a band over their range.

    Args:
        file: the SVG to write, absent or complete.
        runs: position encoding -> for every seed, the rows of its metrics.jsonl.
        metric: a column of the evaluations. The one before the first update is left out: it would set the scale.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with themed_figure(WIDTH, HEIGHT) as figure:
        axes, ends = figure.subplots(), []
        for i, (encoding, seeds) in enumerate(runs.items()):
            colour, style = LINES[i % len(LINES)], "-" if i < len(LINES) else "--"
            evaluations = [[row for row in rows if row["kind"] == "eval" and row["step"] > 0] for rows in seeds]
            updates = np.array([row["step"] for row in evaluations[0]])
            values = np.array([[row[metric] for row in rows] for rows in evaluations], np.float64)
            axes.plot(updates, values.mean(axis=0), style, color=COLOURS[colour], linewidth=1.6)
            axes.fill_between(
                updates, values.min(axis=0), values.max(axis=0), color=COLOURS[colour], alpha=0.2, linewidth=0
            )
            mean = values[:, -1].mean()
            ends.append(EndLabel(mean, f"{encoding} {mean:.3f}", colour))
        axes.set(xlabel="update", ylabel=metric.replace("_", " "))
        label_ends(axes, ends)
        draft = file.with_name(f".partial-{file.name}")
        figure.savefig(draft, format="svg", facecolor=COLOURS["page"], metadata={"Date": None})
        draft.replace(file)
