"""Times fine-tuning on a GLUE task beside Hugging Face's RoFormer in Flax and in PyTorch, on the same examples.

    make bench-peers                        # once: the peers, in an environment of their own
    python -m benchmarks.glue --task SST-2|MRPC --folder data/glue --vocabulary vocab.txt [--json]

6 layers x 384, 12 heads, vocabulary 30522, float32, dropout 0.1, AdamW. Ours is the project's task: examples packed
into rows of 128, as many rows a step as hold 32 examples on average. The peers get the examples of our batches by 32;
Flax pads them to 128 as its script does, PyTorch to the longest of the 32 as its script does. All take turns, a pass
over all batches each; the medians of the passes count. Then, without dropout: the losses of our packed updates beside
those of updates on the same examples, one a row.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from benchmarks.machine import machine
from benchmarks.peers.process import Peer
from benchmarks.training import Training
from roformer_jax.finetuning import Glue
from roformer_jax.models import RoFormerConfig
from roformer_jax.sharding import make_mesh
from roformer_jax.tasks.task import Task
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig

OURS, FLAX, TORCH = "ours, packed", "Hugging Face Flax, padded to 128", "Hugging Face PyTorch, padded to the longest"
PEERS = {FLAX: "flax", TORCH: "torch"}
TASKS = {"SST-2": "sst2", "MRPC": "mrpc"}
LENGTH, EXAMPLES = 128, 32
WARM_UP = 2  # batches

Batch = Mapping[str, np.ndarray]


def make_task(options: argparse.Namespace, cache_dir: str, dropout: float) -> Task:
    """The classification task, as `train.py` makes it."""
    model = RoFormerConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, unroll=6,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    experiment = Glue(
        run_dir="unused", task=TASKS[options.task], folder=options.folder, tokenizer=options.vocabulary, model=model,
        length=LENGTH, training=TrainingConfig(batch_size=EXAMPLES), cache_dir=cache_dir,
    )  # fmt: skip
    mesh = make_mesh(experiment.mesh)
    with jax.set_mesh(mesh):
        return experiment.prepare(mesh)


def examples_of(batch: Batch) -> list[Batch]:
    """The examples of a packed batch: ids and token types, as long as the example, and its label."""
    (ids, segments, types, labels, numbers) = (
        batch[name][0] for name in ("ids", "segment_ids", "token_type_ids", "labels", "example_ids")
    )
    return [
        {"ids": ids[row][own], "token_type_ids": types[row][own], "label": labels[row, place]}
        for row, place in zip(*np.nonzero(numbers), strict=True)
        for own in [segments[row] == place + 1]
    ]


def unpacked(batch: Batch, rows: int) -> Batch:
    """The same examples, one a row, and empty rows up to `rows`."""
    examples = examples_of(batch)
    found = {name: np.zeros((1, rows, LENGTH), np.int32) for name in ("ids", "segment_ids", "token_type_ids")}
    found |= {name: np.zeros((1, rows, 1), np.int32) for name in ("starts", "labels", "example_ids")}
    for row, example in enumerate(examples):
        size = len(example["ids"])
        found["ids"][0, row, :size] = example["ids"]
        found["token_type_ids"][0, row, :size] = example["token_type_ids"]
        found["segment_ids"][0, row, :size] = 1
        found["labels"][0, row], found["example_ids"][0, row] = example["label"], row + 1
    return found


class Ours:
    """Fine-tuning on packed rows, taking turns."""

    def __init__(self, task: Task, batches: list[Batch]):
        self._training, self._batches = Training(task.model, task.loss), batches
        self._examples = sum(len(examples_of(batch)) for batch in batches)
        for batch in batches[:WARM_UP]:
            self._training.update(batch)

    def turn(self, _: object) -> float:
        """Seconds per example of a pass over all batches."""
        return sum(self._training.seconds(batch) for batch in self._batches) / self._examples


def measure(task: Task, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Examples per second of every side."""
    batches = [task.batches[step] for step in range(options.batches)]
    examples = [example for batch in batches for example in examples_of(batch)]
    sides = {OURS: Ours(task, batches)}
    if options.only is None:
        file = folder / "examples.json"
        file.write_text(json.dumps([{name: np.asarray(v).tolist() for name, v in e.items()} for e in examples]))
        sides |= {name: Peer("glue", kind, file, python=options.peers_python) for name, kind in PEERS.items()}
    seconds = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            seconds[name].append(side.turn(None))
    for name in set(sides) - {OURS}:
        sides[name].close()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    places = options.batches * batches[0]["ids"].size
    return {
        "task": options.task,
        "examples": len(examples),
        "rows_of_a_step": batches[0]["ids"].shape[1],
        "real_tokens": sum(len(example["ids"]) for example in examples) / places,
        "examples_per_second": {name: 1 / time for name, time in medians.items()},
        "ours_over": {name: time / medians[OURS] for name, time in medians.items() if name != OURS},
    }


def trajectories(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Losses of packed and unpacked training on the same examples, without dropout."""
    task = make_task(options, str(folder), dropout=0.0)
    batches = [task.batches[step] for step in range(options.updates)]
    rows = max(len(examples_of(batch)) for batch in batches)
    config = OptimizerConfig(warmup=0.0)  # so that the first updates already move the parameters
    packed, plain = (Training(task.model, task.loss, config) for _ in range(2))
    losses = [
        [float(packed.update(batch)["loss"]) for batch in batches],
        [float(plain.update(unpacked(batch, rows))["loss"]) for batch in batches],
    ]
    difference = np.abs(np.subtract(*losses)) / np.abs(losses[1])
    return {
        "task": options.task,
        "updates": options.updates,
        "packed_loss": losses[0],
        "unpacked_loss": losses[1],
        "largest_relative_difference": float(np.max(difference)),
    }


def print_speed(row: dict) -> None:
    """The speeds, in words."""
    print(f"{row['task']}: {row['examples']} examples, ours in {row['rows_of_a_step']} rows of {LENGTH} a step, "
          f"{100 * row['real_tokens']:.1f} % of them tokens")  # fmt: skip
    for name, rate in row["examples_per_second"].items():
        ratio = f"   ours is {row['ours_over'][name]:.2f} times as fast" if name in row["ours_over"] else ""
        print(f"  {name:45s} {rate:7.1f} examples/s{ratio}")


def print_losses(row: dict) -> None:
    """The comparison of losses, in words."""
    first, last = row["packed_loss"][0], row["packed_loss"][-1]
    print(f"  packed and unpacked, {row['updates']} updates without dropout, loss {first:.4f} to {last:.4f}: "
          f"the losses differ by at most {row['largest_relative_difference']:.1e} of them")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--task", choices=sorted(TASKS), default="SST-2")
    parser.add_argument("--folder", default="data/glue", help="GLUE in its official TSV form")
    parser.add_argument("--vocabulary", required=True, help="vocab.txt, such as that of bert-base-uncased")
    parser.add_argument("--batches", type=int, default=22, help="of a pass (default 22)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each side (default 3)")
    parser.add_argument("--updates", type=int, default=20, help="of the comparison of losses (default 20; 0: none)")
    parser.add_argument("--only", choices=("ours",), help="leave the peers out")
    parser.add_argument("--peers-python", default=".venv-bench/bin/python", help="the peers' interpreter")
    options = parser.parse_args()
    print(json.dumps(machine()), flush=True, file=sys.stdout if options.json else sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row = measure(make_task(options, name, dropout=0.1), options, folder)
        print(json.dumps(row), flush=True) if options.json else print_speed(row)
        if options.updates:
            row = trajectories(options, folder)
            print(json.dumps(row), flush=True) if options.json else print_losses(row)


if __name__ == "__main__":
    main()
