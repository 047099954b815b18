"""Reports of runs: one self-contained HTML file, made to be read by somebody who did not write the code."""

from roformer_jax.report.quickstart import write_report
from roformer_jax.report.results import MaskedWord, QuickstartResults

__all__ = ["MaskedWord", "QuickstartResults", "write_report"]
