"""The README says what is there: its commands are accepted by the scripts, and its table names every file."""

import re
import shlex
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "tpu_setup"
README = (FOLDER / "README.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^(?:\| `)?(tpu_setup/\w+\.sh [^`\n]*)", README, re.MULTILINE)]


def test_every_command_is_accepted(cloud):
    assert [command[0] for command in COMMANDS] == [
        f"tpu_setup/{name}.sh" for name in ("create", "install", "launch", "teardown", "resume")
    ]
    for script, *arguments in COMMANDS:
        words = [word.replace("BUCKET", "bucket") for word in arguments]
        words.insert(1, "--dry-run")
        done = cloud.run(Path(script).name, *words)
        assert done.returncode == 0, f"{script}: {done.stderr}"


def test_the_table_names_every_file():
    named = set(re.findall(r"`([\w/]+(?:\.\w+)?)`", README.split("## The files")[1]))
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("[!.]*") if path.is_file()}
    assert there - {"README.md"} <= named
