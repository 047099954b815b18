"""The experiments of causal language models: packed documents, or one stream of bytes as in the paper's section 4.4."""

import dataclasses
from dataclasses import dataclass, field

from jax.sharding import Mesh

from roformer_jax.experiment import Experiment
from roformer_jax.models import Head
from roformer_jax.tasks.causal_lm import causal_lm_problem, causal_lm_task
from roformer_jax.tasks.corpus import Corpus, CorpusConfig, StreamConfig, prepare_corpus, prepare_stream
from roformer_jax.tasks.task import Problem, Task


@dataclass(frozen=True, kw_only=True)
class LanguageModelling(Experiment):
    """What both kinds share: the next-token task on a corpus."""

    data: CorpusConfig | StreamConfig

    @property
    def head(self) -> Head:
        """The head of the model."""
        return "causal_lm"

    def corpus(self) -> Corpus:
        """Read and check the text, as rows."""
        raise NotImplementedError

    def problem(self) -> Problem:
        """Causal language modelling."""
        training = self.training
        return causal_lm_problem(
            self.model,
            length=self.data.length,
            batch_size=training.batch_size,
            microbatches=training.microbatches,
        )

    def prepare(self, mesh: Mesh) -> Task:
        """Read the text and make the next-token task."""
        self.model.check_length(self.data.length)
        self.model.check_mesh(mesh.shape, self.data.length)
        return causal_lm_task(
            self.corpus(),
            self.model,
            mesh=mesh,
            batch_size=self.training.batch_size,
            microbatches=self.training.microbatches,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class DocumentLM(LanguageModelling):
    """A causal language model of packed documents."""

    data: CorpusConfig = field(default_factory=CorpusConfig)

    def corpus(self) -> Corpus:
        """Tokenise and pack the documents."""
        data = self.data if self.init_from is None else dataclasses.replace(self.data, tokenizer=self.init_from)
        return prepare_corpus(data, vocab_size=self.model.vocab_size, cache_dir=self.cache_dir)


@dataclass(frozen=True, kw_only=True)
class ByteLM(LanguageModelling):
    """A causal language model of the bytes of a file (enwik8)."""

    data: StreamConfig = field(default_factory=StreamConfig)

    def corpus(self) -> Corpus:
        """Read and cut the bytes."""
        return prepare_stream(self.data, vocab_size=self.model.vocab_size, cache_dir=self.cache_dir)
