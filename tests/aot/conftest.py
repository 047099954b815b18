"""Programs compiled for devices that are not there, where `make test` could install the compilers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AOT = Path(sys.prefix) / "aot"


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
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            compiled[device, script] = json.loads(done.stdout)
        return compiled[device, script]

    return compile_once
