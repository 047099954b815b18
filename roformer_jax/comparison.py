"""The same experiment with several position encodings, or lengths, and seeds: one field differs, nothing else."""

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

    value: str | int
    """Of the field that is varied."""
    seed: int

    @property
    def name(self) -> str:
        """Of its file, without the suffix."""
        return f"{self.value}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison(CellTable):
    """Runs of one experiment, one field and the seed varied, and a section of a page of results on them."""

    base: Experiment
    """What is run, each value and seed in a folder of its own in its run_dir."""
    title: str
    """Heading of the section."""
    metric: str
    """The evaluation metric that is compared; smaller is better."""
    vary: str = "model.position_encoding"
    """The field that differs."""
    values: tuple[int | str, ...] = ("rope", "none")
    """Its values, the first against each of the others."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each; those of one number share their data order and all initial parameters that both have."""
    also: tuple[str, ...] = ()
    """Other metrics of the last evaluation to show."""
    lengths: tuple[int, ...] = ()
    """Tokens of a row at which the held-out loss is measured, too, the same text cut anew."""

    def __post_init__(self):
        for field in ("values", "seeds"):
            values = getattr(self, field)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{field} must be different values, at least one, got {values}")

    def every(self) -> list[Run]:
        """Every value with the first seed, then with the next."""
        return [Run(value, seed) for seed, value in itertools.product(self.seeds, self.values)]

    def experiment_of(self, cell: Run) -> Experiment:
        """The experiment with one value and seed; nothing else differs."""
        varied = with_field(self.base, self.vary, cell.value)
        return dataclasses.replace(varied, seed=cell.seed, run_dir=f"{self.base.run_dir}/{cell.name}")

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
        shown = [value for value in self.values if any(cell.value == value for cell in cells)]
        curves = {str(value): list(evaluations_of(cells, value).values()) for value in shown}
        figure = self.folder.with_suffix(".svg")
        draw_curves(figure, curves, self.metric)
        label = self.metric.replace("_", " ")
        lines += [f"![{label} against updates]({figure.relative_to(Path(self.results).parent).as_posix()})", ""]
        return [*lines, *self.table(cells, shown), *self.more_lines(cells), "", self.facts(cells)]

    def table(self, cells: Mapping[Run, Mapping[str, Any]], shown: Sequence[str | int]) -> list[str]:
        """A row for every value; every number leads to its cell."""
        first, label = self.values[0], self.metric.replace("_", " ")
        heads = [
            *[self.vary.split(".")[-1].replace("_", " "), f"{label}, mean ± standard deviation"],
            f"seeds {', '.join(map(str, self.seeds))}",
            *[f"{first} against it, seed by seed", f"{first} has this after"],
            *(name.replace("_", " ") for name in self.also),
        ]
        lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
        firsts = evaluations_of(cells, first)
        for value in shown:
            found = evaluations_of(cells, value)
            last = {seed: evaluations[-1][self.metric] for seed, evaluations in found.items()}
            each = (f"[{reached:.3f}]({self.link_to(Run(value, seed).name)})" for seed, reached in last.items())
            both = [seed for seed in last if seed in firsts and value != first]
            gaps = [firsts[seed][-1][self.metric] - last[seed] for seed in both]
            updates = [updates_to(firsts[seed], self.metric, last[seed]) for seed in both]
            row = [
                *[str(value), spread_of(list(last.values())), ", ".join(each)],
                *[spread_of(gaps, "+.3f") if gaps else "", updates_in_words(updates)],
                *(spread_of([evaluations[-1][name] for evaluations in found.values()]) for name in self.also),
            ]
            lines.append(f"| {' | '.join(row)} |")
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
        for value in self.values:
            found = [content for cell, content in cells.items() if cell.value == value]
            if found:
                at_lengths = [[content["lengths"][str(length)] for content in found] for length in self.lengths]
                values = [[content["metrics"][self.metric] for content in found], *at_lengths]
                texts = ("ends before" if None in of_seeds else spread_of(of_seeds) for of_seeds in values)
                lines.append(f"| {value} | {' | '.join(texts)} |")
        return lines

    def facts(self, cells: Mapping[Run, Mapping[str, Any]]) -> str:
        """What was run, and by which command."""
        made = sorted({content["made"] for content in cells.values()})
        minutes = sum(content["seconds"] for content in cells.values()) / 60
        return (
            f"Made by `{self.command}` ({'; '.join(made)}): {self.setting()}; {minutes:.0f} minutes of training for "
            f"{len(cells)} runs. One run again: `--cell {next(iter(cells)).name}`."
        )

    def setting(self) -> str:
        """Model and budget."""
        training, model = self.base.training, self.base.model
        return (
            f"{model.num_hidden_layers} layers x {model.hidden_size}, {model.attention} attention, "
            f"{training.steps:,} updates of {training.batch_size} rows x {self.base.data.length} tokens"
        )


def with_field(config: Any, path: str, value: Any) -> Any:
    """The config with another value of the field at a dotted path."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: with_field(getattr(config, name), rest, value) if rest else value})


def evaluations_of(cells: Mapping[Run, Mapping[str, Any]], value: str | int) -> dict[int, Evaluations]:
    """Seed -> the evaluations of the runs that are finished."""
    return {cell.seed: content["evaluations"] for cell, content in cells.items() if cell.value == value}


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
