"""Checks cells of the GLUE table against PyTorch: the same checkpoint, examples and hyper-parameters in transformers.

    make bench-peers                        # once: the peers, in an environment of their own
    python -m benchmarks.glue_baseline --folder path/to/glue --tasks mrpc stsb --seeds 0 1 2 [--json]

Only cells of the checkpoint as it is (`original`) that are finished are compared, at their learning rate. The peer has
its own data order, dropout and head; scores are this project's, of the peer's predictions.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from benchmarks.peers.process import Peer
from roformer_jax.commands.parsing import load_config
from roformer_jax.data.examples import Examples
from roformer_jax.data.files import resolve
from roformer_jax.data.glue import GLUE, read_glue
from roformer_jax.data.packing import pack_examples
from roformer_jax.data.tokenizer import Tokenizer, load_tokenizer
from roformer_jax.glue_table import ORIGINAL, SMALL_EPOCHS
from roformer_jax.tasks.scores import score

CONFIG = Path(__file__).parents[1] / "configs" / "glue_table.py"


def tokenized(examples: Examples, tokenizer: Tokenizer, length: int) -> list[dict]:
    """Ids and token types of every example, truncated as ours are, and its label, in order."""
    first, second = (None if texts is None else tokenizer.encode(texts) for texts in (examples.texts, examples.pairs))
    rows = pack_examples(first, second, examples.labels, tokenizer, length)
    found: list[dict] = [{} for _ in examples.texts]
    for row in rows:
        for place, number in enumerate(row["example_ids"]):
            if number:
                own = row["segment_ids"] == place + 1
                found[number - 1] = {
                    "ids": row["ids"][own].tolist(),
                    "token_type_ids": row["token_type_ids"][own].tolist(),
                    "label": row["labels"][place].item(),
                }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="GLUE in its official form")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--peers-python", default=".venv-bench/bin/python")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = load_config(CONFIG)
    folder = resolve(table.adaptation.init_from)
    tokenizer = load_tokenizer(folder)
    results = {}
    for name in options.tasks:
        task = GLUE[name]
        train, dev = (read_glue(task, options.folder, split) for split in ("train", task.eval_splits[0]))
        data = {"classes": len(task.label_names)} | {
            side: tokenized(examples, tokenizer, table.finetuning.length)
            for side, examples in (("train", train), ("evaluation", dev))
        }
        cells = [made for seed in options.seeds if (made := table.store.read(table.chosen(ORIGINAL, name, seed)))]
        if not cells:
            sys.exit(f"no cell of {ORIGINAL}/{name} is finished in {table.cells}")
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(data, file)
            file.flush()
            with Peer("glue_baseline", folder, file.name, python=options.peers_python) as peer:
                theirs = []
                for cell in cells:
                    request = {"learning_rate": cell.learning_rate, "epochs": SMALL_EPOCHS, "seed": cell.seed}
                    outputs = np.array(peer.turn(request), np.float32)
                    theirs.append(score(outputs, dev.labels, task.metrics)[task.metrics[-1]])
        ours = [cell.score for cell in cells]
        gap = 100 * (statistics.mean(ours) - statistics.mean(theirs))
        results[name] = {"metric": task.metrics[-1], "ours": ours, "peer": theirs, "difference_in_points": gap}
        if not options.json:
            print(f"{name} {task.metrics[-1]}: ours {ours}, PyTorch {theirs}, difference {gap:+.2f} points", flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
