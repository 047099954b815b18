"""What holds for every script: shellcheck is content, --help helps, a dry run runs nothing, bad arguments end in 2."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "tpu_setup"
SCRIPTS = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".sh", ".sbatch") and path.name != "lib.sh")
NAMES = [str(path.relative_to(FOLDER)) for path in SCRIPTS]
TRAINING = ["--", "configs/pretrain_base.py", "--run-dir", "/mnt/bucket/run"]
GOOD = {  # arguments that each script accepts
    "create.sh": ["pod"],
    "gke/xpk.sh": ["pod", "--cluster", "c", "--image", "i", *TRAINING],
    "install.sh": ["pod"],
    "launch.sh": ["pod", *TRAINING],
    "logs.sh": ["pod"],
    "resume.sh": ["pod", *TRAINING],
    "slurm.sbatch": TRAINING,
    "status.sh": ["pod"],
    "stop.sh": ["pod"],
    "teardown.sh": ["pod"],
    "worker.sh": ["install", "--bucket", "bucket"],
}
NAMED = [script for script, arguments in GOOD.items() if arguments[0] == "pod"]
NAMELESS = ["Pod", "a b", '"', "$(touch owned)", "a\nb", "a-", "a" * 41]
BAD = [
    ("create.sh", [], "give one name, not 0"),
    ("create.sh", ["a", "b"], "give one name, not 2"),
    ("create.sh", ["pod", "--zone"], "--zone needs a value"),
    ("create.sh", ["pod", "--zone="], "--zone needs a value"),
    ("create.sh", ["pod", "--zone", "--dry-run"], "--zone needs a value"),
    ("create.sh", ["pod", "--zona", "x"], "there is no option --zona"),
    ("create.sh", ["pod", "-z"], "there is no option -z"),
    ("create.sh", ["pod", "--x[$(touch owned)]", "y"], "there is no option"),
    ("create.sh", ["pod", "--capacity", "cheap"], "'cheap' is none of spot, reserved, on-demand"),
    ("create.sh", ["pod", "--type", "v3-8"], "v3-8 is none of v4-*"),
    ("create.sh", ["pod", "--every", "soon"], "--every 'soon' must be a whole number"),
    ("create.sh", ["pod", "--", "config.py"], "nothing may follow --"),
    ("install.sh", ["pod", "--commit", "nonsense"], "there is no commit 'nonsense'"),
    ("install.sh", ["pod", "--commit", "--force"], "--commit needs a value"),
    ("install.sh", ["pod", "--bucket", "gs://bucket"], "is no bucket name"),
    ("launch.sh", ["pod"], "name what to train after --"),
    ("launch.sh", ["pod", "--", "--run-dir", "/mnt/b/r"], "name what to train after --"),
    ("launch.sh", ["pod", "--", "c.py"], "add --run-dir /mnt/BUCKET/RUN"),
    ("launch.sh", ["pod", "--", "c.py", "--run-dir", "runs/x"], "--run-dir runs/x would vanish with the machines"),
    ("launch.sh", ["pod", "--", "c.py", "--run-dir", "/tmp/x"], "--run-dir /tmp/x would vanish with the machines"),
    ("launch.sh", ["pod", "--", "c.py", "--run-dir", "/mnt/../tmp"], "would vanish with the machines"),
    ("launch.sh", ["pod", "--", "c.py", "--run-dir=gs://b/x"], "for gs://BUCKET/RUN give /mnt/BUCKET/RUN"),
    (
        "launch.sh",
        ["pod", "--", "c.py", "--run-dir", "/mnt/b/x", "--base.run_dir=runs/y"],
        "--run-dir runs/y would vanish",
    ),
    ("logs.sh", ["pod", "--worker", "1; reboot"], "must be all, a number or a range"),
    ("logs.sh", ["pod", "--lines", "all"], "--lines 'all' must be a whole number"),
    ("resume.sh", ["pod", "--", "c.py"], "add --run-dir"),
    ("resume.sh", ["pod", "--crashes", "-1", *TRAINING], "--crashes '-1' must be a whole number"),
    ("resume.sh", ["pod", "--commit", "nonsense", *TRAINING], "there is no commit 'nonsense'"),
    ("gke/xpk.sh", ["pod", "--image", "i", *TRAINING], "--cluster is missing"),
    ("gke/xpk.sh", ["pod", "--cluster", "c", *TRAINING], "--image is missing"),
    ("slurm.sbatch", ["c.py"], "put what to train after --"),
    ("slurm.sbatch", [], "name what to train after --"),
    ("slurm.sbatch", TRAINING, "submit it: sbatch"),
    ("worker.sh", [], "name one action"),
    ("worker.sh", ["reboot"], "there is no action 'reboot'"),
    ("worker.sh", ["start"], "name what to train after --"),
    *[("create.sh", [name], "must be at most 40 of a-z") for name in NAMELESS],
    *[(script, ["a'; reboot #", *GOOD[script][1:]], "must be at most 40 of a-z") for script in NAMED],
]


def test_the_table_names_every_script():
    assert set(GOOD) == set(NAMES)


def test_shellcheck_has_nothing_to_say():
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    command = [shellcheck, "--severity=style", *SCRIPTS, FOLDER / "lib.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
class TestEveryScript:
    def test_stops_at_the_first_error(self, path):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert path.read_text().startswith("#!/usr/bin/env bash\n")
        assert lines[0] == "set -euo pipefail"

    def test_is_short(self, path):
        assert len(path.read_text().splitlines()) <= 300

    def test_silences_shellcheck_one_line_at_a_time_with_a_reason(self, path):
        for line in re.findall("shellcheck disable.*", path.read_text()):
            assert re.fullmatch(r"shellcheck disable=SC\d+  # .+", line), line

    def test_explains_every_option(self, path, cloud):
        name = str(path.relative_to(FOLDER))
        done = cloud.run(name, "--help")
        options = re.findall(r"^  \[([a-z-]+)\]=", path.read_text(), re.MULTILINE)
        assert (done.returncode, done.stderr, cloud.calls()) == (0, "", [])
        assert path.name in done.stdout
        for option in options:
            assert f"--{option}" in done.stdout.split("Defaults:")[0], option

    def test_a_dry_run_prints_commands_and_runs_none(self, path, cloud):
        name = str(path.relative_to(FOLDER))
        before = sorted(cloud.root.rglob("[!.]*"))
        done = cloud.run(name, "--dry-run", *GOOD[name])
        assert done.returncode == 0, done.stderr
        assert cloud.calls() == []
        assert sorted(cloud.root.rglob("[!.]*")) == before
        assert all(shlex.split(line) for line in done.stdout.splitlines())
        assert done.stdout


@pytest.mark.parametrize("script", [name for name in NAMED if name != "resume.sh"])
def test_the_commands_of_a_dry_run_are_those_of_the_run(script, cloud):
    printed = [shlex.split(line) for line in cloud.run(script, "--dry-run", *GOOD[script]).stdout.splitlines()]
    done = cloud.run(script, *GOOD[script], answers=[[["queued-resources list"], [["pod\tACTIVE\n", 0]]]], stdin="y\n")
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == [command for command in printed if command[0] in ("gcloud", "xpk")]


@pytest.mark.parametrize(("script", "arguments", "message"), BAD)
def test_bad_arguments_end_with_2_before_anything_is_run(cloud, script, arguments, message):
    done = cloud.run(script, *arguments)
    assert (done.returncode, cloud.calls()) == (2, [])
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert not (cloud.root / "owned").exists()
