"""A peer at work in its own interpreter: it takes turns with ours, one JSON line each.

The peer imports nothing of this project but this module, which needs the standard library only.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Peer:
    """`benchmarks.peers.SCRIPT` in another interpreter, ready for its turn; a context manager.

    Args:
        script: name of the module.
        arguments: its command line.
        python: the interpreter of the peers' environment, relative to the project's folder.
    """

    def __init__(self, script: str, *arguments: object, python: str):
        interpreter = ROOT / python
        if not interpreter.exists():
            raise SystemExit(f"there is no {interpreter}: run `make bench-peers` first, or measure --only ours")
        command = [str(interpreter), "-m", f"benchmarks.peers.{script}", *map(str, arguments)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about = self._read()

    def turn(self, request: object) -> object:
        """What the peer answers to `request`."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the peer."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _read(self) -> object:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self._process.args)} ended with code {self._process.wait()}")
        return json.loads(line)


def versions(*names: str) -> dict[str, str]:
    """Of the peer's libraries."""
    return {name: importlib.metadata.version(name) for name in names}


def answer(function: Callable[[object], object], about: object) -> None:
    """In the peer: says what it is, then answers every request with what `function` gives, until there are no more."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(function(json.loads(line))), file=answers, flush=True)
