"""Times a masked-LM training step beside Hugging Face's RoFormer in Flax and in PyTorch, and beside bare matmuls.

    make bench-peers                        # once: the peers, in an environment of their own
    python -m benchmarks.mlm_step [--json] [--dtype best] [--steps 5] [--rounds 3] [--only ours]

4 layers x 768, 12 heads, vocabulary 30522; rows of one document, full, 15 % of the tokens masked; dropout 0.1 wherever
the models have it; AdamW. Ours is the step that `train.py` runs: packed-row model, head at the masked positions only,
gradient clipping, schedule, metrics. All sides take turns, some steps each; the medians of all their steps count.

Model FLOPs of a step, for T tokens in rows of L, of which P are masked, N layers, width M, feed-forward F, vocabulary
V: 6 (N T (4 M^2 + 2 M F + 2 L M) + P (M^2 + M V)), the head at the masked positions only. The share is of the rate at
which bare matmuls of these layers (forward and both gradients) run in XLA, in turns with the rest. `--dtype best`
measures float32 and bfloat16 and takes the faster one of each side.
"""

import argparse
import json
import os
import statistics
import sys
from types import SimpleNamespace

import numpy as np

from benchmarks.machine import GemmRate, machine
from benchmarks.peers.process import Peer
from benchmarks.training import Training
from roformer_jax.data.masking import MaskingConfig, mask_row
from roformer_jax.flops import training_flops
from roformer_jax.models import RoFormerConfig, build_masked_lm
from roformer_jax.tasks.masked_lm import masked_lm_loss

SHAPES = ((8, 128), (2, 512))  # rows, tokens of a row
LAYERS = 4
OURS, FLAX, TORCH = "ours", "Hugging Face Flax", "Hugging Face PyTorch"
PEERS = {FLAX: "flax", TORCH: "torch"}
# The ids of bert-base-uncased, whose text the ids of a row stand for.
VOCABULARY = SimpleNamespace(vocab_size=30522, pad_id=0, unk_id=100, cls_id=101, sep_id=102, mask_id=103)
FIRST_WORD_ID = 1000


def make_batch(rows: int, length: int) -> dict[str, np.ndarray]:
    """A batch [1, rows, ...] of full rows, masked as in pretraining."""
    rng = np.random.default_rng(0)
    masked = [
        mask_row(
            rng.integers(FIRST_WORD_ID, VOCABULARY.vocab_size, length, np.int32), np.ones(length, np.int32),
            config=MaskingConfig(), tokenizer=VOCABULARY, rng=rng,
        )
        for _ in range(rows)
    ]  # fmt: skip
    return {name: np.stack([row[name] for row in masked])[None] for name in masked[0]}


class Ours:
    """The training step of the masked-LM task, taking turns."""

    def __init__(self, rows: int, length: int, dtype: str):
        model = build_masked_lm(RoFormerConfig(num_hidden_layers=LAYERS, unroll=LAYERS, dtype=dtype))
        self._training = Training(model, masked_lm_loss(model))
        self._batch = make_batch(rows, length)
        self.turn(2)

    def turn(self, steps: int) -> list[float]:
        """Seconds of so many steps."""
        return [self._training.seconds(self._batch) for _ in range(steps)]


def dense_layers(rows: int, length: int) -> list[tuple[int, int, int, int]]:
    """(rows, inputs, outputs, count) of the step's dense layers; q, k and v are one."""
    config = RoFormerConfig()
    tokens, masked = rows * length, rows * MaskingConfig().positions(length)
    width, inner = config.hidden_size, config.intermediate_size
    return [
        (tokens, width, 3 * width, LAYERS),
        (tokens, width, width, LAYERS),
        (tokens, width, inner, LAYERS),
        (tokens, inner, width, LAYERS),
        (masked, width, width, 1),
        (masked, width, config.vocab_size, 1),
    ]


def model_flops(rows: int, length: int) -> float:
    """Floating-point operations of a step, by the formula above."""
    config = RoFormerConfig(num_hidden_layers=LAYERS)
    masked = rows * MaskingConfig().positions(length)
    return training_flops(config, tokens=rows * length, length=length, predictions=masked, outputs=config.vocab_size)


def measure(rows: int, length: int, dtype: str, options: argparse.Namespace) -> dict[str, object]:
    """Tokens per second of every side at one shape, in one precision, and the rates of matmuls in the same turns."""
    sides = {OURS: Ours(rows, length, dtype)}
    if options.only is None:
        sides |= {
            name: Peer("mlm_step", kind, rows, length, LAYERS, dtype, python=options.peers_python)
            for name, kind in PEERS.items()
        }
    gemm = GemmRate(dense_layers(rows, length), dtype)
    seconds = {name: [] for name in sides}
    for _ in range(options.rounds):
        gemm.turn()
        for name, side in sides.items():
            seconds[name] += side.turn(options.steps)
    for name in set(sides) - {OURS}:
        sides[name].close()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rates = gemm.rates()
    flops = model_flops(rows, length) / medians[OURS]
    return {
        "shape": [rows, length],
        "dtype": dtype,
        "seconds": medians,
        "tokens_per_second": {name: rows * length / time for name, time in medians.items()},
        "ours_over": {name: medians[name] / medians[OURS] for name in medians if name != OURS},
        "model_gflops_per_second": flops / 1e9,
        "matmul_gflops_per_second": {name: rate / 1e9 for name, rate in rates.items()},
        "share_of_matmul_rate": {name: flops / rate for name, rate in rates.items()},
    }


def best(rows: list[dict]) -> dict[str, object]:
    """Each side in the precision that is faster for it, of rows of one shape."""
    fastest = {name: max(rows, key=lambda row: row["tokens_per_second"][name]) for name in rows[0]["seconds"]}
    rates = {name: row["tokens_per_second"][name] for name, row in fastest.items()}
    return {
        "shape": rows[0]["shape"],
        "dtype": {name: row["dtype"] for name, row in fastest.items()},
        "tokens_per_second": rates,
        "ours_over": {name: rates[OURS] / rate for name, rate in rates.items() if name != OURS},
    }


def print_row(row: dict) -> None:
    """One shape, in words."""
    dtypes = row["dtype"] if isinstance(row["dtype"], dict) else dict.fromkeys(row["tokens_per_second"], row["dtype"])
    print(f"batch {row['shape'][0]} x {row['shape'][1]}")
    for name, rate in row["tokens_per_second"].items():
        ratio = f"   ours is {row['ours_over'][name]:.2f} times as fast" if name in row["ours_over"] else ""
        print(f"  {name:22s} {dtypes[name]:9s} {rate:8.1f} tokens/s{ratio}")
    if "share_of_matmul_rate" in row:
        share, rates = row["share_of_matmul_rate"], row["matmul_gflops_per_second"]
        print(f"  our model FLOPs: {row['model_gflops_per_second']:.1f} GFLOP/s, {100 * share['step_shapes']:.0f} % of "
              f"matmuls of these layers ({rates['step_shapes']:.1f}), {100 * share['square']:.0f} % of large square "
              f"ones ({rates['square']:.1f})")  # fmt: skip


def main() -> None:
    """Measures every shape and prints each as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "best"), default="float32")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--only", choices=(OURS,), help="leave the peers out")
    parser.add_argument("--peers-python", default=".venv-bench/bin/python", help="the peers' interpreter")
    options = parser.parse_args()
    emit = (lambda row: print(json.dumps(row), flush=True)) if options.json else print_row
    print(json.dumps(machine()), flush=True, file=sys.stdout if options.json else sys.stderr)
    for rows, length in SHAPES:
        dtypes = ("float32", "bfloat16") if options.dtype == "best" else (options.dtype,)
        measured = [measure(rows, length, dtype, options) for dtype in dtypes]
        for row in measured:
            emit(row)
        if options.dtype == "best":
            emit(best(measured))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
