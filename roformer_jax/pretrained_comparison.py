"""Fine-tunings compared after a pretraining of their own: long Chinese documents, and short ones (section 4.5)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from roformer_jax.comparison import Comparison, Run
from roformer_jax.finetuning import FineTuning
from roformer_jax.run_folder import RESULTS
from roformer_jax.stages import StagedPretraining


@dataclass(frozen=True, kw_only=True)
class PretrainedComparison(Comparison):
    """Fine-tunings that differ in one field and the seed, and start from the last stage of one pretraining."""

    base: FineTuning
    pretraining: StagedPretraining
    """Is run first, once."""
    vary: str = "length"

    def experiment_of(self, cell: Run) -> FineTuning:
        """The fine-tuning with one value and seed."""
        return dataclasses.replace(super().experiment_of(cell), init_from=self.pretrained)

    @property
    def pretrained(self) -> str:
        """Folder of the run that all start from."""
        return self.pretraining.experiments()[-1].run_dir

    def prepare(self, cell: Run) -> None:
        """Run the pretraining, or what is left of it."""
        if not (Path(self.pretrained) / RESULTS).exists():
            self.pretraining.run()

    def setting(self) -> str:
        """Model and budget."""
        model, training, stages = self.pretraining.base.model, self.base.training, self.pretraining
        pretrained = " and ".join(
            f"{steps:,} of {rows} x {length:,} tokens"
            for steps, rows, length in zip(stages.steps, stages.batch_sizes, stages.lengths, strict=True)
        )
        return (
            f"{model.num_hidden_layers} layers x {model.hidden_size}, pretrained in stages of {pretrained}, then "
            f"{training.epochs:g} epochs of {training.batch_size} examples an update"
            + ("; triples is the share of those whose B has the higher score" if "triples" in self.also else "")
        )
