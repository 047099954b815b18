"""Position encodings compared as translators: the loss as in every comparison, and the BLEU of every test."""

from dataclasses import dataclass
from pathlib import Path

from roformer_jax.comparison import Comparison, spread_of
from roformer_jax.run_folder import read_json
from roformer_jax.translation import BLEU, Translation


@dataclass(frozen=True, kw_only=True)
class TranslationComparison(Comparison):
    """Runs of one translation experiment, its position encoding and seed varied."""

    base: Translation
    out_of_domain: tuple[str, ...] = ()
    """Names of those tests whose texts are of another kind than the training text; they are called so."""

    def more_lines(self) -> list[str]:
        """A table of BLEU: a row for each encoding, a column for each test."""
        names = self.base.data.test_names
        if not names:
            return []
        scores = {
            encoding: [read_json(Path(self.varied(encoding, seed).run_dir) / BLEU) for seed in self.seeds]
            for encoding in self.encodings
        }
        titles = [f"{name}, out of domain" if name in self.out_of_domain else name for name in names]
        (signature,) = {of_seed[name]["signature"] for seeds in scores.values() for of_seed in seeds for name in names}
        table = [
            f"| BLEU (larger is better) | {' | '.join(titles)} |",
            f"| --- |{' --- |' * len(names)}",
            *(
                f"| {encoding} | "
                + " | ".join(spread_of([of_seed[name]["bleu"] for of_seed in seeds]) for name in names)
                + " |"
                for encoding, seeds in scores.items()
            ),
        ]
        search = self.base.search
        made = f"Beam {search.beam}, length penalty {search.length_penalty}, sacrebleu {signature}."
        return ["", *table, "", made]
