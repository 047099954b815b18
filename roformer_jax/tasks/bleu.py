"""BLEU (Papineni et al. 2002), by sacrebleu and with its signature: numbers that others can make again (Post 2018)."""

from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics import BLEU


class Bleu(NamedTuple):
    """A score, and how it was made."""

    bleu: float
    """0 to 100."""
    signature: str


def bleu(translations: Sequence[str], references: Sequence[str]) -> Bleu:
    """Corpus BLEU of translations, each against one reference, cased and tokenised as in WMT (13a)."""
    metric = BLEU()
    score = metric.corpus_score(list(translations), [list(references)])
    return Bleu(score.score, str(metric.get_signature()))
