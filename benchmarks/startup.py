"""Where the time from the command to the end of the first update goes: cold, with empty caches, and warm.

    python -m benchmarks.startup [--json] [--rounds 3]

Starts `train.py configs/quickstart.py` (its first model; the articles come with a package) in new processes with
folders of their own: once with nothing cached, once more with the caches that the first one left, into another run
folder. Compilation is what JAX says of itself (tracing, lowering, compiling or reading from the cache), whatever goes
on beside it; data is the rest of the time from reading the articles to packed rows; imports is all before that from
the start of the process; the rest is what remains of the evaluation before the first update, and that update.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
CONFIG = "configs/quickstart.py"
COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
PARTS = ("imports", "data", "compilation", "rest")

Interval = tuple[float, float]


class FirstUpdate(BaseException):
    """The first update is made."""


def child(started: float, arguments: list[str]) -> None:
    """Runs `train.py` to the end of the first update and prints the seconds of each part, the last line of its output.

    Args:
        started: when the process was started, by `time.time()`.
        arguments: of `train.py`.
    """
    from roformer_jax.commands.experiments import train
    from roformer_jax.commands.parsing import load_config

    load_config(Path(arguments[0]))  # imports what the experiment needs
    import jax

    from roformer_jax.pretraining import Pretraining
    from roformer_jax.training.loop import Reporter

    imported = time.time()
    compiling: list[Interval] = []
    preparing: list[Interval] = []

    def listen(event: str, seconds: float, **_) -> None:
        if event in COMPILING:
            compiling.append((time.time() - seconds, time.time()))

    def update(_self, _step: int, metrics, *_) -> None:
        jax.block_until_ready(metrics)
        raise FirstUpdate

    jax.monitoring.register_event_duration_secs_listener(listen)
    prepare = noting(preparing, Pretraining.prepare)
    with mock.patch.object(Pretraining, "prepare", prepare), mock.patch.object(Reporter, "update", update):
        try:
            train(arguments)
        except FirstUpdate:
            ended = time.time()
    seconds = {"compilation": covered(compiling), "imports": imported - started}
    seconds["data"] = covered([*preparing, *compiling]) - seconds["compilation"]
    seconds["rest"] = ended - started - sum(seconds.values())
    print(json.dumps({"total": ended - started} | {part: seconds[part] for part in PARTS}), flush=True)


def noting(intervals: list[Interval], function: Callable) -> Callable:
    """The function, whose calls are noted in `intervals`."""

    def call(*arguments):
        start = time.time()
        result = function(*arguments)
        intervals.append((start, time.time()))
        return result

    return call


def covered(intervals: list[Interval]) -> float:
    """Seconds that at least one of the intervals covers."""
    total, end = 0.0, 0.0
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def measure(folder: Path, name: str) -> dict[str, float | str]:
    """One start, with the caches in `folder` and a run folder of its own."""
    places = {"pretraining.run-dir": folder / name, "pretraining.cache-dir": folder / "cache"}
    flags = [text for field, value in places.items() for text in (f"--{field}", str(value))]
    script = "import sys; from benchmarks.startup import child; child(float(sys.argv[1]), sys.argv[2:])"
    command = [sys.executable, "-c", script, str(time.time()), CONFIG, *flags]
    # A cache that the user has would make a cold start warm.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    found = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    seconds = json.loads(found.stdout.splitlines()[-1])
    return {"start": name} | seconds | {"not_compilation": 1 - seconds["compilation"] / seconds["total"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    parser.add_argument("--rounds", type=int, default=1, help="cold and warm starts of each (default 1)")
    options = parser.parse_args()
    if not options.json:
        print(f"| start | seconds | {' | '.join(PARTS)} | not compilation |\n" + "| --- " * 7 + "|")
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("cold", "warm"):
                row = measure(Path(folder), name)
                if options.json:
                    print(json.dumps(row), flush=True)
                else:
                    cells = [f"{row[part]:.1f}" for part in ("total", *PARTS)]
                    print(f"| {name} | {' | '.join(cells)} | {row['not_compilation']:.0%} |", flush=True)


if __name__ == "__main__":
    main()
