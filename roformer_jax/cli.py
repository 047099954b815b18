"""The command line: `python -m roformer_jax COMMAND`, and `python train.py CONFIG`.

Exit codes: 0 done; 1 a bug (with its traceback); 2 bad input (one message, nothing written); 3 training gave no finite
numbers any more; 4 every checkpoint is damaged; 5 the last checkpoint could not be written; 75 stopped by a signal with
the state saved: run the same command again to go on; 130 ended by a second Ctrl-C, unsaved.
"""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from roformer_jax.commands import exchange, experiments, library, runs
from roformer_jax.errors import InputError, Interrupted, RunError

BUG = 1
HELP = ("-h", "--help")
READER_GONE = 128 + signal.SIGPIPE  # how shells count it

USAGE = """usage: python -m roformer_jax COMMAND ...

  train CONFIG [--field.name value ...]   run the experiment of a config file; run again to continue
  table [CONFIG] [--minutes 60 ...]       the fair GLUE table, cell by cell; configs/glue_table.py without CONFIG
  report [RUN ...]                        every table's finished cells, and runs, as docs/results.md and one HTML file
  plan CONFIG --topology v5e:4x4 [...]    memory, step time and cost of a run on chips that need not be there
  evaluate RUN                            metrics of a run's newest checkpoint on its held-out data
  predict RUN --output PATH [--input F]   labels and probabilities for a file; GLUE's submission files without --input
  translate RUN [--input F] [--output F]  a translation of every line of a text; standard input and output without F
  generate RUN --prompt TEXT              a causal language model's continuation of a text, written as it comes
  length RUN ... --lengths 512 1024       the held-out loss of language models at other lengths: a table and a curve
  import CHECKPOINT --output RUN          a run made of a Hugging Face checkpoint: RoFormer, RoFormerV2, BERT
  export RUN --output FOLDER [...]        a run for transformers, or as one program that needs JAX alone
  rope [--scaling yarn --factor 8 ...]    frequencies of RoPE and of its scalings: a table, and figures with --output

On several processes `train` takes --distributed (TPU pods, Slurm) or --coordinator HOST:PORT --processes N
--process-id I, the same command on each but for the last number.
`train CONFIG --help` lists the fields of an experiment, which `plan` takes too; the others answer --help as well.
`python train.py CONFIG ...` is `train`. The configs that come with the project lie in configs/."""

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": experiments.train,
    "table": experiments.table,
    "report": experiments.report,
    "plan": experiments.plan,
    "evaluate": runs.evaluate,
    "predict": runs.predict,
    "translate": runs.translate,
    "generate": runs.generate,
    "length": runs.length,
    "import": exchange.import_checkpoint,
    "export": exchange.export_run,
    "rope": library.rope,
}


def main(arguments: Sequence[str]) -> int:
    """Run a command; return its exit code."""
    command, *rest = list(arguments) or ["--help"]
    if command in HELP or (command == "train" and rest[:1] and rest[0] in HELP):
        print(USAGE)
        return 0
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: no command {command!r}{hint}\n\n{USAGE}", file=sys.stderr)
        return InputError.exit_code
    if command not in ("train", "table"):
        return guarded(COMMANDS[command], rest)
    from roformer_jax.distributed import leave

    code = BUG
    try:
        code = guarded(COMMANDS[command], rest)
    finally:
        leave(code)
    return code


def run_process(arguments: Sequence[str]) -> NoReturn:
    """Run the command of this process and end it with its exit code.

    At once: after a save that failed, a thread of orbax may wait for its parts for five minutes, and Python for it.
    """
    try:
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        code = READER_GONE
    os._exit(code)


def guarded(command: Callable[[list[str]], None], arguments: list[str]) -> int:
    """Run a command; turn the ends that are foreseen into one message and an exit code."""
    try:
        command(arguments)
    except Interrupted as end:
        print(f"{end}; run the same command again to go on", file=sys.stderr)
        return end.exit_code
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
