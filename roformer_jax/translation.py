"""The experiment of machine translation (section 4.1): trained on pairs, measured by BLEU."""

from dataclasses import dataclass, field
from pathlib import Path

import jax
from jax.sharding import Mesh

from roformer_jax.data.vocabulary import fitting_tokenizer
from roformer_jax.errors import InputError
from roformer_jax.experiment import Experiment
from roformer_jax.models import Head
from roformer_jax.run_folder import CHECKPOINTS, TOKENIZER, read_json, write_json
from roformer_jax.tasks.beam_search import SearchConfig
from roformer_jax.tasks.bleu import bleu
from roformer_jax.tasks.parallel_corpus import PairsConfig, prepare_pairs, read_tests
from roformer_jax.tasks.predictions import write_lines
from roformer_jax.tasks.task import Problem, Task
from roformer_jax.tasks.translating import Interpreter, source_ids
from roformer_jax.tasks.translation import translation_problem, translation_task
from roformer_jax.training.averaging import average_newest
from roformer_jax.training.loop import TrainingConfig

BLEU = "bleu.json"  # in the run's folder: score and signature of every test
TRANSLATIONS = "translations"  # folder of the translations of the tests


@dataclass(frozen=True, kw_only=True)
class Translation(Experiment):
    """An encoder-decoder RoFormer that translates, or the same model with other positions."""

    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(keep=5))
    data: PairsConfig = field(default_factory=PairsConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    label_smoothing: float = 0.1
    """Share of the target distribution that all tokens have alike (Szegedy et al. 2016)."""
    averaged: int = 5
    """Newest checkpoints whose mean translates; training.keep keeps as many or more."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing = {self.label_smoothing} must lie in [0, 1)")
        if not 1 <= self.averaged <= self.training.keep:
            raise InputError(
                f"averaged = {self.averaged} checkpoints must be 1 or more, and training.keep = {self.training.keep} "
                "or fewer"
            )
        if self.init_from is not None:
            raise InputError(f"init_from = {self.init_from}: a translation model starts from nothing; leave it out")

    @property
    def head(self) -> Head:
        """The head of the model."""
        return "translation"

    def problem(self) -> Problem:
        """Translation."""
        training = self.training
        return translation_problem(
            self.model,
            label_smoothing=self.label_smoothing,
            length=self.data.length,
            batch_size=training.batch_size,
            microbatches=training.microbatches,
        )

    def prepare(self, mesh: Mesh) -> Task:
        """Tokenise and pack the pairs, and make the translation task."""
        self.model.check_length(self.data.length)
        self.model.check_mesh(mesh.shape, self.data.length)
        corpus = prepare_pairs(self.data, vocab_size=self.model.vocab_size, cache_dir=self.cache_dir)
        for test in corpus.tests:
            source_ids(test.sources, corpus.tokenizer, self.model, test.path)
        return translation_task(
            corpus,
            self.model,
            label_smoothing=self.label_smoothing,
            length=self.data.length,
            mesh=mesh,
            batch_size=self.training.batch_size,
            microbatches=self.training.microbatches,
            seed=self.seed,
        )

    def run(self) -> dict[str, float]:
        """Train; then translate the tests, once, and say their BLEU.

        Raises:
          RunError: as every experiment.
        """
        metrics = super().run()
        folder = Path(self.run_dir)
        if jax.process_index() > 0 or not self.data.test_source:
            return metrics
        if not (folder / BLEU).exists():
            write_json(folder / BLEU, self.measured(folder))
        scores = read_json(folder / BLEU)
        for name, score in scores.items():
            print(f"BLEU of {name}: {score['bleu']:.2f}, {score['signature']}")
        return metrics | {f"bleu_{name}": score["bleu"] for name, score in scores.items()}

    def interpreter(self, folder: Path) -> Interpreter:
        """The mean of the newest checkpoints in a run's folder, ready to translate."""
        tokenizer = fitting_tokenizer(folder / TOKENIZER, self.model.vocab_size)
        return Interpreter(self.model, average_newest(folder / CHECKPOINTS, self.averaged), tokenizer, self.search)

    def measured(self, folder: Path) -> dict[str, dict[str, float | str]]:
        """BLEU of every test; the translations are written beside it."""
        interpreter, scores = self.interpreter(folder), {}
        for test in read_tests(self.data):
            translations = interpreter.translate(test.sources, test.path).texts
            write_lines(folder / TRANSLATIONS / f"{test.name}.txt", translations)
            scores[test.name] = bleu(translations, test.references)._asdict()
        return scores
