"""The same experiment with several position encodings and seeds: same data, budget and code, one field different."""

import dataclasses
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roformer_jax import __version__
from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.report.comparison import draw_curves
from roformer_jax.training.writer import read_metrics

Rows = Sequence[Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of one experiment, its position encoding and seed varied, and a section of a page of results on them."""

    base: Experiment
    """What is run; each run has a folder of its own in its run_dir, and one that is complete is not run again."""
    name: str
    """Of the section and of its figure's file."""
    title: str
    """Heading of the section."""
    command: str
    """The command that makes it again."""
    metric: str
    """The evaluation metric that is compared; smaller is better."""
    encodings: tuple[str, ...] = ("rope", "none")
    """Position encodings, the first against each of the others."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each; those of one number share their data order and all initial parameters that both have."""
    results: str = "docs/results.md"
    """The page; the section is replaced where it is there, and added where not."""

    def __post_init__(self):
        for field in ("encodings", "seeds"):
            values = getattr(self, field)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{field} must be different values, at least one, got {values}")

    def run(self) -> None:
        """Run all of it, or what is left of it, and write the section and its figure."""
        runs = {(encoding, seed): self.varied(encoding, seed) for seed in self.seeds for encoding in self.encodings}
        page = Path(self.results)
        for (encoding, seed), experiment in runs.items():
            print(f"\n=== {encoding} positions, seed {seed} ===", flush=True)
            experiment.run()
        metrics = {key: read_metrics(experiment.run_dir) for key, experiment in runs.items()}
        page.parent.mkdir(parents=True, exist_ok=True)
        figure = page.parent / page.stem / f"{self.name}.svg"
        draw_curves(figure, {e: [metrics[e, s] for s in self.seeds] for e in self.encodings}, self.metric)
        lines = [*section(self, metrics, figure.relative_to(page.parent)), *self.more_lines()]
        text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
        page.write_text(with_section(text, self.name, lines), encoding="utf-8")
        print("\n".join(lines) + f"\n\nwritten to {page} and {figure}")

    def more_lines(self) -> list[str]:
        """What a kind of comparison adds to its section, when all runs are complete."""
        return []

    def varied(self, encoding: str, seed: int) -> Experiment:
        """The experiment with one position encoding and seed; nothing else differs."""
        model = dataclasses.replace(self.base.model, position_encoding=encoding)
        folder = f"{self.base.run_dir}/{encoding}-{seed}"
        return dataclasses.replace(self.base, model=model, seed=seed, run_dir=folder)


def section(comparison: Comparison, metrics: Mapping[tuple[str, int], Rows], figure: Path) -> list[str]:
    """The section's lines of Markdown: a figure, a table of the last evaluations, and what made them."""
    label = comparison.metric.replace("_", " ")
    last = {key: [row for row in rows if row["kind"] == "eval"][-1] for key, rows in metrics.items()}
    values = {e: [float(last[e, s][comparison.metric]) for s in comparison.seeds] for e in comparison.encodings}
    seconds = sum(float(row["seconds"]) for rows in metrics.values() for row in rows if row["kind"] == "train")
    training, model = comparison.base.training, comparison.base.model
    first = comparison.encodings[0]
    table = [
        f"| positions | {label}, mean ± standard deviation | of seeds {', '.join(map(str, comparison.seeds))} |",
        "| --- | --- | --- |",
        *(f"| {e} | {spread_of(values[e])} | {', '.join(f'{value:.3f}' for value in values[e])} |" for e in values),
    ]
    differences = [
        f"{first} against {other}, seed by seed: {spread_of(np.subtract(values[first], values[other]))}"
        for other in comparison.encodings[1:]
    ]
    return [
        f"## {comparison.title}",
        "",
        f"![{label} against updates]({figure.as_posix()})",
        "",
        *table,
        "",
        f"{'; '.join(differences)} {label} on held-out data (negative: {first} is better)." if differences else "",
        "",
        f"Made by `{comparison.command}` on {time.strftime('%Y-%m-%d')} (roformer_jax {__version__}): "
        f"{model.num_hidden_layers} layers x {model.hidden_size}, {model.attention} attention, "
        f"{training.steps:,} updates of {training.batch_size} rows x {comparison.base.data.length} tokens; "
        f"{seconds / 60:.0f} minutes of training for all {len(metrics)} runs.",
    ]


def spread_of(values: Sequence[float] | np.ndarray) -> str:
    """Mean and sample standard deviation; the value alone where there is one."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def with_section(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with the section of that name in its place, or at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = "\n".join([begin, *lines, end])
    if begin not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)
