"""The fair GLUE table as Markdown and as a figure: means over seeds, deviations, and which encoding won by how much."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from roformer_jax.report.comparison import LINES
from roformer_jax.report.figures import COLOURS, save_figure, themed_figure

WIDTH, HEIGHT = 6.4, 3.4  # inches


class Made(NamedTuple):
    """A finished fine-tuning."""

    name: str
    """Of its cell."""
    model: str
    task: str
    learning_rate: float
    seed: int
    metric: str
    """Name of the score; all lie between -1 and 1."""
    score: float
    training_examples: int
    seconds: float


Best = Mapping[tuple[str, str], Sequence[Made]]
"""(model, task) -> its finished cells, one a seed, at the learning rate that was chosen."""


def table_lines(
    best: Best, independent: Mapping[str, Sequence[Made]], *, models: Sequence[str], whole: Mapping[str, int],
    command: str, facts: str, link_to: Callable[[str], str], figure: Path | None,
) -> list[str]:  # fmt: skip
    """The section's lines of Markdown.

    Args:
      best: what is finished.
      independent: task -> the same fine-tunings of the first model in PyTorch that are finished.
      models: the columns; the second and third are compared.
      whole: task -> training examples of the official data; the rows of the table, in order.
      command: what makes the table.
      facts: a sentence on checkpoint and budget.
      link_to: name of a cell -> its file, for the page.
      figure: relative path of the figure; None where there is nothing to draw.
    """
    one, other = models[1], models[2]
    rows = [
        f"| {task} ({metric}) | {_examples(cells, whole[task])} | "
        + " | ".join(_score(best[model, task], link_to) for model in models)
        + f" | {_difference(best[one, task], best[other, task])} |"
        for task in whole
        if (cells := [made for model in models for made in best[model, task]]) and (metric := cells[0].metric)
    ]
    lines = ["## GLUE from one checkpoint, position encodings compared", ""]
    if figure is not None:
        lines += [f"![scores of every task and model]({figure.as_posix()})", ""]
    lines += [
        f"| task | training examples | {' | '.join(models)} | {one} - {other} |",
        "| --- " * (len(models) + 3) + "|",
        *rows,
        "",
        "Scores on the development set, times 100: mean ± standard deviation over seeds (each seed's; learning rate).",
        verdict(best, list(whole), one, other),
        *_checked({task: (best[models[0], task], independent[task]) for task in whole}, models[0], link_to),
        "",
        facts,
        f"Made by `{command}`; {_minutes(best)} minutes of fine-tuning for what is shown.",
    ]
    return lines


def verdict(best: Best, tasks: Sequence[str], one: str, other: str) -> str:
    """Which of two models won where, against the deviation over seeds; nothing is claimed from single seeds."""
    ahead: dict[str, list[str]] = {one: [], other: []}
    even, single = [], []
    for task in tasks:
        first, second = best[one, task], best[other, task]
        if not first or not second:
            continue
        gap, deviation = _gap(first, second)
        if deviation is None:
            single.append(f"{task} ({gap:+.1f})")
        elif abs(gap) <= deviation:
            even.append(f"{task} ({gap:+.1f}, deviation {deviation:.1f})")
        else:
            ahead[one if gap > 0 else other].append(f"{task} ({gap:+.1f}, deviation {deviation:.1f})")
    parts = [
        f"{name} is ahead by more than the deviation over seeds on {', '.join(won)}"
        for name, won in ahead.items()
        if won
    ]
    if even:
        parts.append(f"within it lie {', '.join(even)}")
    if single:
        parts.append(f"one seed, so no deviation: {', '.join(single)}")
    return f"{one} against {other}: " + ("; ".join(parts) if parts else "nothing to compare yet") + "."


def draw_table(file: Path, best: Best, models: Sequence[str], tasks: Sequence[str]) -> bool:
    """Draws a dot for every model and task, with a bar of a standard deviation; False where nothing is finished."""
    shown = [task for task in tasks if any(best[model, task] for model in models)]
    if not shown:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    with themed_figure(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        for i, model in enumerate(models):
            places = [t + 0.2 * (i - (len(models) - 1) / 2) for t, task in enumerate(shown) if best[model, task]]
            cells = [[100 * made.score for made in best[model, task]] for task in shown if best[model, task]]
            spreads = [statistics.stdev(scores) if len(scores) > 1 else 0.0 for scores in cells]
            axes.errorbar(
                places, [statistics.mean(scores) for scores in cells], yerr=spreads, fmt="o", markersize=4.5,
                capsize=3, color=COLOURS[LINES[i % len(LINES)]], label=model,
            )  # fmt: skip
        axes.set_xticks(range(len(shown)), shown)
        axes.set(ylabel="score on the development set", xlim=(-0.5, len(shown) - 0.5))
        axes.legend(frameon=False, fontsize=9, ncols=len(models), loc="lower center", bbox_to_anchor=(0.5, 1.0))
        save_figure(figure, file)
    return True


def _checked(
    pairs: Mapping[str, tuple[Sequence[Made], Sequence[Made]]], model: str, link_to: Callable[[str], str]
) -> list[str]:
    """What PyTorch makes of the seeds that both have, and how far ours lies from it."""
    found = []
    for task, (ours, theirs) in pairs.items():
        seeds = {made.seed for made in theirs}
        if same := [made for made in ours if made.seed in seeds]:
            found.append(f"{task} {_score(theirs, link_to)}, {model} lies {_gap(same, theirs)[0]:+.1f} from it")
    return [f"The same fine-tunings in PyTorch (`benchmarks.glue_baseline`): {'; '.join(found)}."] if found else []


def _examples(cells: Sequence[Made], whole: int) -> str:
    """How many a task was trained on; a part of the official set is called so."""
    found = cells[0].training_examples
    return f"{found:,}" if found >= whole else f"{found:,}, a subset of {whole:,}"


def _score(cells: Sequence[Made], link_to: Callable[[str], str]) -> str:
    """Mean and deviation in points, the score of every seed, which leads to its cell, and the learning rate."""
    if not cells:
        return "not made yet"
    scores = [100 * made.score for made in cells]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    each = ", ".join(f"[{score:.1f}]({link_to(made.name)})" for score, made in zip(scores, cells, strict=True))
    return f"{statistics.mean(scores):.1f}{spread} ({each}; {cells[0].learning_rate:g})"


def _gap(first: Sequence[Made], second: Sequence[Made]) -> tuple[float, float | None]:
    """Difference of the means in points, and the deviation over seeds of a score: both sides' variances, averaged."""
    sides = [[100 * made.score for made in cells] for cells in (first, second)]
    gap = statistics.mean(sides[0]) - statistics.mean(sides[1])
    if min(map(len, sides)) < 2:
        return gap, None
    return gap, math.sqrt(statistics.mean(statistics.variance(scores) for scores in sides))


def _difference(first: Sequence[Made], second: Sequence[Made]) -> str:
    return f"{_gap(first, second)[0]:+.1f}" if first and second else ""


def _minutes(best: Best) -> str:
    return f"{sum(made.seconds for cells in best.values() for made in cells) / 60:,.0f}"
