"""The pretraining experiment: masked LM on any text."""

import dataclasses
from dataclasses import dataclass, field

from jax.sharding import Mesh

from roformer_jax.data.masking import MaskingConfig
from roformer_jax.experiment import Experiment
from roformer_jax.models import Head
from roformer_jax.tasks.corpus import CorpusConfig, prepare_corpus
from roformer_jax.tasks.masked_lm import masked_lm_problem, masked_lm_task
from roformer_jax.tasks.task import Problem, Task


@dataclass(frozen=True, kw_only=True)
class Pretraining(Experiment):
    """Masked-LM pretraining of a RoFormer (paper section 4.2), or of the same model with other positions."""

    data: CorpusConfig = field(default_factory=CorpusConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)

    @property
    def head(self) -> Head:
        """The head of the model."""
        return "masked_lm"

    def problem(self) -> Problem:
        """Masked language modelling."""
        training = self.training
        return masked_lm_problem(
            self.model,
            self.masking,
            length=self.data.length,
            batch_size=training.batch_size,
            microbatches=training.microbatches,
        )

    def prepare(self, mesh: Mesh) -> Task:
        """Tokenise and pack the text, and make the masked-LM task."""
        self.model.check_length(self.data.length)
        self.model.check_mesh(mesh.shape, self.data.length)
        data = self.data if self.init_from is None else dataclasses.replace(self.data, tokenizer=self.init_from)
        corpus = prepare_corpus(data, vocab_size=self.model.vocab_size, cache_dir=self.cache_dir)
        return masked_lm_task(
            corpus,
            self.model,
            self.masking,
            mesh=mesh,
            batch_size=self.training.batch_size,
            microbatches=self.training.microbatches,
            seed=self.seed,
        )
