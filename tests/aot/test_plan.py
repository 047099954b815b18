"""`plan`, as a person calls it, for chips that are not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.aot.conftest import AOT, ENVIRONMENT

ROOT = Path(__file__).parents[2]
TINY = [
    *["--model.num-hidden-layers", "2", "--model.hidden-size", "32", "--model.intermediate-size", "64"],
    *["--data.length", "16", "--training.batch-size", "4"],
]
CHIPS = {"v5e:2x2": "libtpu", "h100:4": "jax_plugins/xla_cuda12"}


def run_plan(topology, *flags):
    if not (AOT / CHIPS[topology]).exists():
        pytest.skip(f"no {CHIPS[topology]} in {AOT}: `make test` installs it on Linux x86-64, with a network")
    command = [sys.executable, "-m", "roformer_jax", "plan", "configs/charlm_small.py", "--topology", topology]
    done = subprocess.run([*command, *flags], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("topology", CHIPS)
def test_the_update_is_compiled_and_its_loops_are_counted(topology):
    plan = json.loads(run_plan(topology, *TINY, "--price", "2", "--json"))
    memory = plan["memory"]
    assert plan["devices"] == 4 and plan["fits"]
    assert memory["peak"] >= memory["parameters"] + memory["optimizer"] + memory["temporaries"]
    assert plan["model_flops"] <= plan["program_flops"]
    sent = sum(traffic["sent"] for traffic in plan["collectives"].values())
    assert sent >= memory["parameters"], "every gradient is sent"
    assert 0 < plan["prediction"]["mfu"] < 1
    assert plan["cost"] == pytest.approx(2 * 4 * plan["hours"])
    assert (plan["compiler_flops_loops_once"] is None) == topology.startswith("h100")
