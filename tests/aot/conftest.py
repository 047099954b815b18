"""Programs compiled for devices that are not there, where `make test` could install the compilers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AOT = Path(sys.prefix) / "aot"
# Of compilers: as users have them, and without this suite's flags for CPUs, which those of other devices do not know.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
}


@pytest.fixture(scope="session")
def programs_of():
    """Device name -> name of the program -> what its script finds; in a process of its own, once a device."""
    compiled = {}

    def compile_once(device, script="compile_rope.py"):
        package = "jax_plugins/xla_cuda12" if device == "h100" else "libtpu"
        if not (AOT / package).exists():
            pytest.skip(f"no {package} in {AOT}: `make test` installs it on Linux x86-64, with a network")
        if (device, script) not in compiled:
            command = [sys.executable, str(Path(__file__).with_name(script)), device]
            done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            compiled[device, script] = json.loads(done.stdout)
        return compiled[device, script]

    return compile_once
