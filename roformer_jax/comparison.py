"""The same experiment with several position encodings and seeds: same data, budget and code, one field different."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roformer_jax.cells import CellTable
from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.lengths import measure
from roformer_jax.report.comparison import draw_curves
from roformer_jax.training.writer import read_metrics

Evaluations = Sequence[Mapping[str, int | float]]
"""The evaluations of a run, in order: `step`, and every metric."""


class Run(NamedTuple):
    """A cell of a comparison."""

    encoding: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file, without the suffix."""
        return f"{self.encoding}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison(CellTable):
    """Runs of one experiment, its position encoding and seed varied, and a section of a page of results on them."""

    base: Experiment
    """What is run, each encoding and seed in a folder of its own in its run_dir."""
    title: str
    """Heading of the section."""
    metric: str
    """The evaluation metric that is compared; smaller is better."""
    encodings: tuple[str, ...] = ("rope", "none")
    """Position encodings, the first against each of the others."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each; those of one number share their data order and all initial parameters that both have."""

    lengths: tuple[int, ...] = ()
    """Tokens of a row at which the held-out loss is measured, too, the same text cut anew."""

    def __post_init__(self):
        for field in ("encodings", "seeds"):
            values = getattr(self, field)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{field} must be different values, at least one, got {values}")

    def every(self) -> list[Run]:
        """Every encoding with the first seed, then with the next."""
        return [Run(encoding, seed) for seed, encoding in itertools.product(self.seeds, self.encodings)]

    def experiment_of(self, cell: Run) -> Experiment:
        """The experiment with one position encoding and seed; nothing else differs."""
        model = dataclasses.replace(self.base.model, position_encoding=cell.encoding)
        return dataclasses.replace(self.base, model=model, seed=cell.seed, run_dir=f"{self.base.run_dir}/{cell.name}")

    def content_of(self, cell: Run, experiment: Experiment, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Its evaluations."""
        rows = [row for row in read_metrics(experiment.run_dir) if row["kind"] == "eval"]
        evaluations = [{name: value for name, value in row.items() if name != "kind"} for row in rows]
        if not self.lengths:
            return {"evaluations": evaluations}
        points = measure([Path(experiment.run_dir)], self.lengths, ())
        return {"evaluations": evaluations, "lengths": {str(point.length): point.value for point in points}}

    def finished(self) -> dict[Run, dict[str, Any]]:
        """What is in the finished cells."""
        return {cell: content for cell in self.every() if (content := self.read(cell)) is not None}

    def section(self) -> list[str]:
        """A figure, a table of the last evaluations, and what made them."""
        cells = self.finished()
        lines = [f"## {self.title}", ""]
        if not cells:
            return [*lines, f"Made by `{self.command}`."]
        shown = [encoding for encoding in self.encodings if any(cell.encoding == encoding for cell in cells)]
        curves = {encoding: list(evaluations_of(cells, encoding).values()) for encoding in shown}
        figure = self.folder.with_suffix(".svg")
        draw_curves(figure, curves, self.metric)
        label = self.metric.replace("_", " ")
        lines += [f"![{label} against updates]({figure.relative_to(Path(self.results).parent).as_posix()})", ""]
        return [*lines, *self.table(cells, shown), *self.more_lines(cells), "", self.facts(cells)]

    def table(self, cells: Mapping[Run, Mapping[str, Any]], shown: Sequence[str]) -> list[str]:
        """A row for every encoding; every number leads to its cell."""
        first, label = self.encodings[0], self.metric.replace("_", " ")
        lines = [
            f"| positions | {label}, mean ± standard deviation | seeds {', '.join(map(str, self.seeds))} | "
            f"{first} against it, seed by seed | {first} has this after |",
            "| --- " * 5 + "|",
        ]
        firsts = evaluations_of(cells, first)
        for encoding in shown:
            last = {seed: found[-1][self.metric] for seed, found in evaluations_of(cells, encoding).items()}
            each = (f"[{value:.3f}]({self.link_to(Run(encoding, seed).name)})" for seed, value in last.items())
            both = [seed for seed in last if seed in firsts and encoding != first]
            gaps = [firsts[seed][-1][self.metric] - last[seed] for seed in both]
            reached = [updates_to(firsts[seed], self.metric, last[seed]) for seed in both]
            cells_of_row = (
                *[encoding, spread_of(list(last.values())), ", ".join(each)],
                *[spread_of(gaps, "+.3f") if gaps else "", updates_in_words(reached)],
            )
            lines.append(f"| {' | '.join(cells_of_row)} |")
        return [*lines, "", f"Held-out data, after the last update; a negative difference: {first} is better."]

    def more_lines(self, cells: Mapping[Run, Mapping[str, Any]]) -> list[str]:
        """What a kind of comparison adds to its section: the loss at other lengths, if it was asked for."""
        if not self.lengths:
            return []
        label, lengths = self.metric.replace("_", " "), " | ".join(f"{length:,}" for length in self.lengths)
        lines = [
            "",
            f"| {label} at a length of | {self.base.data.length:,} (trained) | {lengths} |",
            "| --- " * (len(self.lengths) + 2) + "|",
        ]
        for encoding in self.encodings:
            found = [content for cell, content in cells.items() if cell.encoding == encoding]
            if found:
                at_lengths = [[content["lengths"][str(length)] for content in found] for length in self.lengths]
                values = [[content["metrics"][self.metric] for content in found], *at_lengths]
                texts = ("ends before" if None in of_seeds else spread_of(of_seeds) for of_seeds in values)
                lines.append(f"| {encoding} | {' | '.join(texts)} |")
        return lines

    def facts(self, cells: Mapping[Run, Mapping[str, Any]]) -> str:
        """What was run, and by which command."""
        training, model = self.base.training, self.base.model
        made = sorted({content["made"] for content in cells.values()})
        minutes = sum(content["seconds"] for content in cells.values()) / 60
        return (
            f"Made by `{self.command}` ({'; '.join(made)}): {model.num_hidden_layers} layers x {model.hidden_size}, "
            f"{model.attention} attention, {training.steps:,} updates of {training.batch_size} rows x "
            f"{self.base.data.length} tokens; {minutes:.0f} minutes of training for {len(cells)} runs. One run again: "
            f"`--cell {next(iter(cells)).name}`."
        )


def evaluations_of(cells: Mapping[Run, Mapping[str, Any]], encoding: str) -> dict[int, Evaluations]:
    """Seed -> the evaluations of the runs that are finished."""
    return {cell.seed: content["evaluations"] for cell, content in cells.items() if cell.encoding == encoding}


def updates_to(evaluations: Evaluations, metric: str, value: float) -> float | None:
    """Updates until a metric has first fallen to a value, between evaluations in proportion; None if it never has."""
    before = None
    for row in evaluations:
        if row[metric] <= value:
            if before is None:
                return float(row["step"])
            share = (before[metric] - value) / (before[metric] - row[metric])
            return before["step"] + share * (row["step"] - before["step"])
        before = row
    return None


def updates_in_words(reached: Sequence[float | None]) -> str:
    """Updates in words, over seeds; empty where there are none to tell of."""
    if not reached:
        return ""
    there = [updates for updates in reached if updates is not None]
    if not there:
        return "never"
    never = f", never in {len(reached) - len(there)} of {len(reached)}" if len(there) < len(reached) else ""
    return f"{spread_of(there, ',.0f')} updates{never}"


def spread_of(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and sample standard deviation; the value alone where there is one."""
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ± {format(np.std(values, ddof=1), form.removeprefix('+'))}"
