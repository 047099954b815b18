"""Position encodings compared as translators: the loss as in every comparison, and the BLEU of every test."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roformer_jax.comparison import Comparison, Run, spread_of
from roformer_jax.run_folder import read_json
from roformer_jax.translation import BLEU, Translation


@dataclass(frozen=True, kw_only=True)
class TranslationComparison(Comparison):
    """Runs of one translation experiment, one field and the seed varied."""

    base: Translation
    out_of_domain: tuple[str, ...] = ()
    """Names of those tests whose texts are of another kind than the training text; they are called so."""

    def content_of(self, cell: Run, experiment: Translation, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Evaluations, and BLEU with its signature."""
        return super().content_of(cell, experiment, metrics) | {"bleu": read_json(Path(experiment.run_dir) / BLEU)}

    def more_lines(self, cells: Mapping[Run, Mapping[str, Any]]) -> list[str]:
        """A table of BLEU: a row for each value, a column for each test."""
        names = list(next(iter(cells.values()))["bleu"])
        titles = [f"{name}, out of domain" if name in self.out_of_domain else name for name in names]
        lines = ["", f"| BLEU (larger is better) | {' | '.join(titles)} |", f"| --- |{' --- |' * len(names)}"]
        for value in self.values:
            scores = [content["bleu"] for cell, content in cells.items() if cell.value == value]
            if scores:
                columns = (spread_of([of_seed[name]["bleu"] for of_seed in scores]) for name in names)
                lines.append(f"| {value} | {' | '.join(columns)} |")
        signatures = sorted({score["signature"] for content in cells.values() for score in content["bleu"].values()})
        search = self.base.search
        made = f"Beam {search.beam}, length penalty {search.length_penalty}, sacrebleu {'; '.join(signatures)}."
        return [*lines, "", made]
