"""The pretraining experiment: masked LM on any text."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
from jax.sharding import Mesh

from roformer_jax.data.masking import MaskingConfig
from roformer_jax.experiment import Experiment, initial_params
from roformer_jax.models import Head
from roformer_jax.run_folder import write_json
from roformer_jax.sharding import make_mesh
from roformer_jax.tasks.corpus import CorpusConfig, prepare_corpus
from roformer_jax.tasks.masked_lm import masked_lm_problem, masked_lm_task
from roformer_jax.tasks.task import Problem, Task
from roformer_jax.training.writer import read_metrics
from roformer_jax.warm_start import read_weights

SWAP = "swap.json"  # in the run's folder: the losses around a swap of positions


@dataclass(frozen=True, kw_only=True)
class Pretraining(Experiment):
    """Masked-LM pretraining of a RoFormer (paper section 4.2), or of the same model with other positions."""

    data: CorpusConfig = field(default_factory=CorpusConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)

    @property
    def head(self) -> Head:
        """The head of the model."""
        return "masked_lm"

    def run(self) -> dict[str, float]:
        """Train; where positions were swapped, write and say what the swap did to the loss, and what training mended.

        Raises:
          RunError: as every experiment.
        """
        swap = self.init_from is not None and self.init_positions != "keep"
        before = self.loss_before_the_swap() if swap else None
        metrics = super().run()
        if swap and jax.process_index() == 0:
            rows = [row for row in read_metrics(self.run_dir) if row["kind"] == "eval"]
            losses = {"before_the_swap": before, "after_updates": {str(row["step"]): row["loss"] for row in rows}}
            write_json(Path(self.run_dir) / SWAP, losses)
            print("\n".join(["held-out masked-LM loss, nats per token:", *described_swap(before, rows)]))
        return metrics

    def loss_before_the_swap(self) -> float | None:
        """The held-out loss of what this run starts from, with its own positions; None if it has no masked-LM head."""
        if not read_weights(self.init_from, type(self).__name__, self.head).has_head:
            return None
        own = dataclasses.replace(self, init_positions="keep").resolved()
        mesh = make_mesh(own.mesh)
        with jax.set_mesh(mesh):
            task = own.prepare(mesh)
            return task.evaluate(initial_params(own, task, mesh))["loss"]

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


def described_swap(before: float | None, evaluations: Sequence[Mapping[str, float]]) -> list[str]:
    """The losses around a swap of positions, a line each."""
    own = "unknown: it has no masked-LM head" if before is None else f"{before:.4f}"
    lines = [f"  {'before the swap':24s} {own}"]
    for row in evaluations:
        when = "right after the swap" if row["step"] == 0 else f"after {row['step']:,} updates"
        lines.append(f"  {when:24s} {row['loss']:.4f}")
    return lines
