"""Tables that grow cell by cell: a finished cell is a small JSON file, committed, and is not made again.

A cell is a run of an experiment. Its file holds what it measured, with the config, so that a page is written from the
files alone and names the cells that are missing; cells of another config do not stand in one table.
"""

import math
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from roformer_jax.distributed import agreed, on_first_process
from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment, made
from roformer_jax.run_folder import DATA, as_json, differences, read_json, shaping, write_json
from roformer_jax.training.writer import read_metrics

SHOWN_MISSING = 6  # names of missing cells; the rest is counted
PLACES = frozenset(
    "folder init_from path validation_path tokenizer source target heldout_source heldout_target test_source "
    "test_target".split()
)  # fields that say where the input lies, which differs from machine to machine; data.json says what it was


@runtime_checkable
class Cell(Protocol):
    """What tells a cell from the others."""

    @property
    def name(self) -> str:
        """Of its file, without the suffix."""


@dataclass(frozen=True, kw_only=True)
class CellTable:
    """Cells that are experiments, and a section of a page of results on them."""

    name: str
    """Of the section, of the folder of its cells and of its figure's file."""
    command: str
    """What makes the table, for the page."""
    results: str = "docs/results.md"
    """The page whose section is written; figures and finished cells lie in the folder of its name."""
    minutes: float = math.inf
    """Begin no other cell after so many; the same command goes on from there."""
    cell: str | None = None
    """Make this one again, and nothing else; none makes all that are missing."""

    def every(self) -> Iterable[Cell]:
        """All cells that the table may have."""
        raise NotImplementedError

    def wanted(self) -> Iterable[Cell]:
        """Those to make, in order; which the later ones are may depend on the earlier."""
        return self.every()

    def experiment_of(self, cell: Cell) -> Experiment:
        """What a cell runs."""
        raise NotImplementedError

    def content_of(self, cell: Cell, experiment: Experiment, metrics: Mapping[str, float]) -> Mapping[str, Any]:
        """What a cell's file holds beside what all have; `experiment` is complete and gave these metrics."""
        raise NotImplementedError

    def section(self) -> list[str]:
        """The section's lines of Markdown, from the finished cells; its figure is drawn, too."""
        raise NotImplementedError

    def prepare(self, cell: Cell) -> None:
        """Make what a cell starts from."""

    def run(self) -> None:
        """Make the cells that are missing, one after another, and write the page after each.

        Raises:
          RunError: as every experiment; cells that are finished stay.
        """
        if self.cell is not None:
            self.make(self.cell_of(self.cell))
            return
        began = time.monotonic()
        while (cell := next(iter(self.missing()), None)) is not None:
            if agreed(time.monotonic() - began > 60 * self.minutes):
                print(f"{self.minutes:g} minutes are over: the same command goes on with {cell.name}")
                break
            self.make(cell)
        on_first_process(self.write_page)

    def make(self, cell: Cell) -> None:
        """Run a cell, write its file and the page, and remove the run."""
        self.prepare(cell)
        experiment = self.experiment_of(cell)
        print(f"\n=== {cell.name} ===", flush=True)
        metrics = experiment.run()
        agreed(True)  # that the first process has written all, whatever it did alone
        rows = read_metrics(experiment.run_dir)
        content = measured(experiment, metrics, rows) | dict(self.content_of(cell, experiment, metrics))

        def write() -> None:
            self.write(cell, content)
            shutil.rmtree(experiment.run_dir)
            self.write_page()

        on_first_process(write)

    def missing(self) -> Iterable[Cell]:
        """The cells that are not finished, in the order in which they are made."""
        return (cell for cell in self.wanted() if not self.file_of(cell.name).exists())

    def cell_of(self, name: str) -> Cell:
        """The cell of that name.

        Raises:
          InputError: the table has none.
        """
        cells = {cell.name: cell for cell in self.every()}
        if name not in cells:
            raise InputError(f"cell = {name!r} is none of the table's; they are called like {next(iter(cells))}")
        return cells[name]

    @property
    def folder(self) -> Path:
        """Of the finished cells."""
        return Path(self.results).with_suffix("") / self.name

    def file_of(self, name: str) -> Path:
        """Where a cell is, or will be."""
        return self.folder / f"{name}.json"

    def link_to(self, name: str) -> str:
        """The file of a cell as the page names it."""
        return self.file_of(name).relative_to(Path(self.results).parent).as_posix()

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """What is in a finished cell; None if it is not finished.

        Raises:
          InputError: its file is damaged, or was made by another config.
        """
        file = self.file_of(cell.name)
        if not file.exists():
            return None
        content = read_json(file)
        old = content.get("config")
        if not isinstance(old, dict):
            raise InputError(f"{file} lacks its config; remove it to make the cell again")
        if changed := differences(old, config_of(self.experiment_of(cell))):
            raise InputError(
                f"{file} was made by another config, and one table has one: {changed}; set that back, or remove the "
                "file to make the cell again, or name another page with --results"
            )
        return content

    def write(self, cell: Cell, content: Mapping[str, Any]) -> None:
        """Write a finished cell."""
        file = self.file_of(cell.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)

    def write_page(self) -> None:
        """Write the section of the page, and its figure, from the cells that are finished.

        A section that is there stays while no cell is finished: it was written by runs that left no cells.
        """
        page = Path(self.results)
        text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
        if f"<!-- {self.name} -->" in text and not self.folder.exists():
            return
        lines = self.section()
        if missing := [cell.name for cell in self.missing()]:
            rest = f" and {len(missing) - SHOWN_MISSING} more" if len(missing) > SHOWN_MISSING else ""
            lines += ["", f"Not made yet: {', '.join(missing[:SHOWN_MISSING])}{rest}. The same command goes on."]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(with_section(text, self.name, lines), encoding="utf-8")


def measured(experiment: Experiment, metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What every finished cell holds of its run."""
    return {
        "config": config_of(experiment),
        "data": read_json(Path(experiment.run_dir) / DATA),
        "metrics": dict(metrics),
        "updates": rows[-1]["step"],
        "seconds": round(sum(row["seconds"] for row in rows if row["kind"] == "train"), 1),
        "made": made(),
    }


def config_of(experiment: Experiment) -> dict[str, Any]:
    """What shapes an experiment, as dotted names, but for where its input lies."""
    config = shaping(as_json(experiment))
    return {name: value for name, value in config.items() if name.split(".")[-1] not in PLACES}


def with_section(page: str, name: str, lines: Sequence[str]) -> str:
    """The page with the section of that name in its place, or at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = "\n".join([begin, *lines, end])
    if begin not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)
