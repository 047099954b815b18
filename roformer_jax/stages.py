"""Pretraining in stages of different lengths, each from where the one before ended (the paper's section 4.5)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax

from roformer_jax.errors import InputError
from roformer_jax.fields import check_types
from roformer_jax.pretraining import Pretraining
from roformer_jax.run_folder import write_json

STAGES = "stages.json"  # in the folder of the stages: what each ended with


@dataclass(frozen=True, kw_only=True)
class StagedPretraining:
    """A masked-LM run for each stage, in a folder of its own; with RoPE no length outgrows a table of positions.

    A stage starts from the weights of the one before, with an optimizer and a schedule of its own. The same command
    goes on in the stage that was interrupted.
    """

    base: Pretraining
    """What all stages share; its init_from is that of the first, its run_dir the folder of all."""
    lengths: tuple[int, ...]
    """Tokens of a row, stage by stage."""
    batch_sizes: tuple[int, ...]
    """Rows of a batch."""
    steps: tuple[int, ...]
    """Updates of each stage."""

    def __post_init__(self):
        check_types(self)
        counts = {"lengths": len(self.lengths), "batch_sizes": len(self.batch_sizes), "steps": len(self.steps)}
        if not self.lengths or len(set(counts.values())) > 1:
            given = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise InputError(f"every stage has a length, a batch size and a number of steps, but {given}")
        self.experiments()  # refuses what no run could be

    def experiments(self) -> list[Pretraining]:
        """The runs, in order."""
        found: list[Pretraining] = []
        for number, (length, rows, steps) in enumerate(zip(self.lengths, self.batch_sizes, self.steps, strict=True), 1):
            found.append(
                dataclasses.replace(
                    self.base,
                    run_dir=f"{self.base.run_dir}/stage-{number}",
                    init_from=found[-1].run_dir if found else self.base.init_from,
                    init_positions="keep" if found else self.base.init_positions,
                    data=dataclasses.replace(self.base.data, length=length),
                    training=dataclasses.replace(self.base.training, batch_size=rows, steps=steps),
                )
            )
        return found

    def largest(self) -> Pretraining:
        """The stage with the most tokens in a batch, as if it were the first: for `plan`, before any is run."""
        stage = max(self.experiments(), key=lambda stage: stage.data.length * stage.training.batch_size)
        return dataclasses.replace(stage, init_from=self.base.init_from, init_positions=self.base.init_positions)

    def run(self) -> list[dict[str, float]]:
        """Run the stages, or what is left of them; write and print what each ended with.

        Raises:
          RunError: as every experiment; what was on disk stays there.
        """
        ended = []
        for number, stage in enumerate(self.experiments(), 1):
            size = f"{stage.training.batch_size} rows of {stage.data.length} tokens, {stage.training.steps:,} updates"
            print(f"\n=== stage {number} of {len(self.steps)}: {size} ===", flush=True)
            metrics = stage.run()
            if jax.process_index() == 0:
                ended.append({name: metrics[name] for name in ("loss", "accuracy")})
                write_json(Path(self.base.run_dir) / STAGES, {str(i): stage for i, stage in enumerate(ended, 1)})
        if ended:
            print("\n" + "\n".join(self.table(ended)))
        return ended

    def table(self, ended: list[dict[str, float]]) -> list[str]:
        """The paper's table 4, of what the stages ended with."""
        rows = [
            f"{number:5d}  {length:6,}  {rows:5,}  {steps:7,}  {metrics['loss']:6.3f}  {metrics['accuracy']:8.1%}"
            for number, (length, rows, steps, metrics) in enumerate(
                zip(self.lengths, self.batch_sizes, self.steps, ended, strict=True), 1
            )
        ]
        return ["stage  length  batch    steps    loss  accuracy", *rows]
