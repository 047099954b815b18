"""Compiles the base model's masked-LM step for TPUs that are not there, and Hugging Face's Flax model's beside it.

    make bench-peers                        # once: the peer, in an environment of its own, with the same compiler
    python -m benchmarks.tpu_step [--json]

Global batch 64 x 512, bfloat16, dropout 0.1, data parallel over v5e:2x4 (`--topology`). Figures are the compiler's, per
chip. XLA counts the body of a loop once, so FLOPs and bytes are counted here for both alike: FLOPs of the matrix
products of the traced program, bytes that the operations of the compiled one read and write, loops as often as they
turn (`roformer_jax.planning`). What XLA itself says of the peer, whose program has no loop, stands beside them.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from roformer_jax.planning.environment import AOT, SETTINGS

os.environ |= SETTINGS | {"TPU_LIBRARY_PATH": str(AOT / "libtpu" / "libtpu.so")}

from benchmarks.machine import machine
from benchmarks.peers.process import Peer
from roformer_jax.models import RoFormerConfig
from roformer_jax.planning.compile import compile_update
from roformer_jax.planning.hlo import parse
from roformer_jax.planning.memory_traffic import bytes_moved
from roformer_jax.planning.topology import open_slice
from roformer_jax.pretraining import Pretraining
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig

ROWS, LENGTH, STEPS = 64, 512, 10_000
OURS, FLAX = "ours", "Hugging Face Flax"
GB = 1e9


def measure_ours(layers: int, topology: str) -> dict[str, float]:
    """What `python -m roformer_jax plan` finds."""
    experiment = Pretraining(
        run_dir="unused",
        model=RoFormerConfig(num_hidden_layers=layers, dtype="bfloat16", remat="dots"),  # configs/pretrain_base.py
        data=CorpusConfig(length=LENGTH),
        training=TrainingConfig(batch_size=ROWS, steps=STEPS),
    )
    compiled = compile_update(experiment, STEPS, open_slice(topology).devices)
    return {
        "compile_seconds": compiled.seconds,  # tracing and lowering too
        "TFLOP": compiled.flops / 1e12,
        "GB_accessed": compiled.moved.accessed / GB,
        "GB_temporaries": compiled.memory.temporaries / GB,
        "GB_state": (compiled.memory.parameters + compiled.memory.optimizer) / GB,
    }


def measure_flax(layers: int, topology: str, python: str) -> dict[str, float]:
    """The same of the peer, by the same counts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.txt"
        with Peer("tpu_step", ROWS, LENGTH, layers, topology, file, python=python) as peer:
            found = dict(peer.about)
        found["GB_accessed"] = bytes_moved(parse(file.read_text())).accessed / GB
    return found


def print_table(sides: dict[str, dict[str, float]]) -> None:
    """Markdown; the last column is ours over theirs."""
    print("| of a chip | " + " | ".join(sides) + " | ours / theirs |\n" + "| --- " * (len(sides) + 2) + "|")
    for name in sides[OURS]:
        values = [side[name] for side in sides.values()]
        ratio = f"{values[0] / values[1]:.2f}" if len(values) == 2 else ""
        print(f"| {name.replace('_', ' ')} | {' | '.join(f'{value:.2f}' for value in values)} | {ratio} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    parser.add_argument("--topology", default="v5e:2x4", help="default v5e:2x4")
    parser.add_argument("--layers", type=int, default=12, help="of both models (default 12)")
    parser.add_argument("--only", choices=(OURS,), help="leave the peer out")
    parser.add_argument("--peers-python", default=".venv-bench/bin/python", help="the peer's interpreter")
    options = parser.parse_args()
    print(json.dumps(machine()), flush=True, file=sys.stdout if options.json else sys.stderr)
    sides = {OURS: measure_ours(options.layers, options.topology)}
    if options.only is None:
        sides[FLAX] = measure_flax(options.layers, options.topology, options.peers_python)
    if not options.json:
        print_table(sides)
        return
    ratios = {name: sides[OURS][name] / sides[FLAX][name] for name in sides[OURS]} if FLAX in sides else {}
    print(json.dumps({"topology": options.topology, "layers": options.layers} | sides | {"ours_over": ratios}))


if __name__ == "__main__":
    main()
