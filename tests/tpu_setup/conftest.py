"""A copy of the scripts in a repository of their own, and stand-ins for every command that reaches out of it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in.py")
OUTSIDE = ("gcloud", "xpk", "kubectl", "sky", "sbatch", "srun", "scontrol", "docker")
WORKER = ("sudo", "systemd-run", "systemctl", "mountpoint", "stat", "gcsfuse", "python3", "curl", "apt-get")


@dataclass(frozen=True)
class Cloud:
    """Runs the scripts; what they call is recorded and answered by stand-ins."""

    root: Path
    bin: Path
    folder: Path

    @property
    def worker(self) -> Path:
        return self.folder / "worker"

    def add(self, *names: str) -> None:
        for name in names:
            (self.bin / name).symlink_to(self.bin / "stand_in")

    def run(self, script, *arguments, answers=(), stdin="", **environment) -> subprocess.CompletedProcess[str]:
        """Run tpu_setup/`script`; RECORD begins anew."""
        self.record.write_text("")
        return subprocess.run(
            [self.root / "tpu_setup" / script, *arguments],
            cwd=self.root, input=stdin, text=True, capture_output=True, timeout=60, check=False,
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.worker), "LC_ALL": "C",
                "RECORD": str(self.record), "ANSWERS": json.dumps(answers), **environment,
            },
        )  # fmt: skip

    @property
    def record(self) -> Path:
        return self.folder / "record.jsonl"

    def calls(self, *names: str) -> list[list[str]]:
        """The calls of the last run, in order; those of `names` only, if there are any."""
        calls = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [call for call in calls if not names or call[0] in names]


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """The scripts, committed."""
    root = tmp_path_factory.mktemp("a repository")
    shutil.copytree(ROOT / "tpu_setup", root / "tpu_setup")
    (root / "requirements.txt").write_text("jax\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "."], [*identity, "commit", "--quiet", "--message", "scripts"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    return root


@pytest.fixture
def cloud(repository, tmp_path) -> Cloud:
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_in = folder / "stand_in"
    stand_in.write_text(f"#!{sys.executable} -IS\n{STAND_IN.read_text()}")
    stand_in.chmod(0o755)
    cloud = Cloud(repository, folder, tmp_path)
    cloud.add(*OUTSIDE, *WORKER)
    tools = cloud.worker / ".local" / "bin"
    tools.mkdir(parents=True)
    (tools / "uv").symlink_to(stand_in)
    return cloud


@pytest.fixture(scope="session")
def commit(repository) -> str:
    return subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
