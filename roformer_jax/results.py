"""Everything that was measured, on one page: the Markdown that is committed, and the same as one HTML file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from roformer_jax import rope
from roformer_jax.cells import CellTable, with_section
from roformer_jax.errors import InputError
from roformer_jax.report.results_page import RunRecord, results_page
from roformer_jax.report.spectrum import draw_decay
from roformer_jax.run_folder import CONFIG, RESULTS, flatten, read_json
from roformer_jax.training.writer import read_metrics

HEAD_SIZE = 128  # of the paper's figure 2
DISTANCES = (0, 16, 32, 64, 128, 256)


def write_results(tables: Sequence[CellTable], runs: Sequence[Path], output: Path) -> list[Path]:
    """Write the page anew from the finished cells, and the HTML file of it and of the runs; return both.

    Args:
      tables: all of one page.
      runs: folders of runs to report beside it.
      output: the HTML file.

    Raises:
      InputError: tables of different pages, a damaged cell, or a folder that is no run with metrics.
    """
    pages = sorted({table.results for table in tables})
    if len(pages) != 1:
        raise InputError(f"a report is of one page of results, got tables of {', '.join(pages) or 'none'}")
    page, records = Path(pages[0]), [record_of(run) for run in runs]
    for table in tables:
        table.write_page()
    write_decay(page)
    files = sorted(file for table in tables for file in table.folder.rglob("*.json"))
    cells = {file.relative_to(page.parent).as_posix(): read_json(file) for file in files}
    document = results_page(page.read_text(encoding="utf-8"), page.parent, cells, records)
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".partial-{output.name}")
    draft.write_text(document, encoding="utf-8")
    draft.replace(output)
    return [page, output]


def record_of(run: Path) -> RunRecord:
    """What a report says of a run.

    Raises:
      InputError: the folder is no run, or has no metrics yet.
    """
    config, rows = read_json(run / CONFIG), read_metrics(run)
    if not any(row["kind"] == "train" for row in rows):
        raise InputError(f"{run} has no metrics of an update yet: train it first")
    results = read_json(run / RESULTS) if (run / RESULTS).exists() else {}
    made = results.get("made", f"not complete: {rows[-1]['step']:,} updates so far")
    return RunRecord(run.name, flatten(config), rows, results.get("metrics", {}), made)


def write_decay(page: Path) -> None:
    """Write the section on figure 2 of the paper, and draw the figure."""
    figure = page.with_suffix("") / "decay.svg"
    draw_decay(figure, HEAD_SIZE)
    bound = rope.decay_bound(rope.frequencies(HEAD_SIZE), np.array(DISTANCES))
    lines = [
        "## Scores decay with the distance (the paper's figure 2)",
        "",
        f"![relative upper bound of the score against distance]({figure.relative_to(page.parent).as_posix()})",
        "",
        f"| distance, tokens | {' | '.join(map(str, DISTANCES))} |",
        "| --- " * (len(DISTANCES) + 1) + "|",
        f"| upper bound, {HEAD_SIZE} channels | {' | '.join(f'{value:.2f}' for value in bound)} |",
        "",
        "Computed by `roformer_jax.rope.decay_bound`, written by `python -m roformer_jax report`.",
    ]
    page.write_text(with_section(page.read_text(encoding="utf-8"), "decay", lines), encoding="utf-8")
