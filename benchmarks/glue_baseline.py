"""Checks cells of the GLUE table against PyTorch: the same checkpoint, examples and hyper-parameters in transformers.

    make bench-peers                        # once: the peers, in an environment of their own
    python -m benchmarks.glue_baseline --folder path/to/glue --tasks mrpc stsb

Only cells of the checkpoint as it is (`original`) that are finished are run, at their learning rate. The peer has its
own data order, dropout and head; scores are this project's, of the peer's predictions. Finished runs are JSON files
beside the table's cells, are not made again, and stand under the table in docs/results.md.
"""

import argparse
import json
import sys
import tempfile
import time
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
from roformer_jax.glue_table import ORIGINAL, PYTORCH, SMALL_EPOCHS, Cell, GlueTable
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


def examples_of(table: GlueTable, name: str, folder: str) -> dict:
    """What the peer trains and predicts on."""
    task = GLUE[name]
    tokenizer = load_tokenizer(resolve(table.adaptation.init_from))
    return {"classes": len(task.label_names)} | {
        side: tokenized(read_glue(task, folder, split), tokenizer, table.finetuning.length)
        for side, split in (("train", "train"), ("evaluation", task.eval_splits[0]))
    }


def run(table: GlueTable, cell: Cell, data: dict, peer: Peer) -> None:
    """Fine-tunes in PyTorch with the hyper-parameters of a cell, and writes its file and the page."""
    request = {"learning_rate": cell.learning_rate, "epochs": SMALL_EPOCHS, "seed": cell.seed}
    began = time.monotonic()
    outputs = np.array(peer.turn(request), np.float32)
    seconds = round(time.monotonic() - began, 1)
    theirs, metrics = cell._replace(model=PYTORCH), GLUE[cell.task].metrics
    labels = np.array([example["label"] for example in data["evaluation"]])
    content = theirs._asdict() | {
        "metric": metrics[-1],
        "score": score(outputs, labels, metrics)[metrics[-1]],
        "epochs": SMALL_EPOCHS,
        "training_examples": len(data["train"]),
        "evaluation_examples": len(data["evaluation"]),
        "seconds": seconds,
        "made": machine() | peer.about,
    }
    table.write(theirs, content)
    table.write_page()
    print(f"{theirs.name}: {content['metric']} {content['score']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="GLUE in its official form")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "stsb"])
    parser.add_argument("--peers-python", default=".venv-bench/bin/python")
    options = parser.parse_args()
    table = load_config(CONFIG)
    for name in options.tasks:
        finished = [cell for seed in table.seeds if table.made(cell := table.chosen(ORIGINAL, name, seed))]
        if not finished:
            sys.exit(f"no cell of {ORIGINAL}/{name} is finished in {table.folder}")
        data = examples_of(table, name, options.folder)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(data, file)
            file.flush()
            checkpoint = resolve(table.adaptation.init_from)
            with Peer("glue_baseline", checkpoint, file.name, python=options.peers_python) as peer:
                for cell in finished:
                    if table.independent(cell) is None:
                        run(table, cell, data, peer)


if __name__ == "__main__":
    main()
