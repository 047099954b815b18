"""Help, hints, and the configs that come with the project."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from roformer_jax.trained import KINDS

ROOT = Path(__file__).parents[2]
OF_SEVERAL = (
    "Quickstart",
    "StagedPretraining",
    "Comparison",
    "TranslationComparison",
    "PretrainedComparison",
    "GlueTable",
)
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.py"))
# Prints the class and the values of every config, as the command line sees them.
LOAD_ALL = """
import json, sys
from pathlib import Path
from roformer_jax.commands.parsing import load_config
from roformer_jax.run_folder import as_json
print(json.dumps({name: as_json(load_config(Path("configs") / name)) for name in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def configs(environment):
    """Name of each shipped config file -> its values."""
    command = [sys.executable, "-c", LOAD_ALL, *CONFIGS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def helps(commands):
    """Name of each shipped config file -> what `train CONFIG --help` did."""
    return dict(zip(CONFIGS, commands(*(["train", f"configs/{name}", "--help"] for name in CONFIGS)), strict=True))


def flags_of(values, prefix=""):
    """Every flag of a config and its default, as help shows it."""
    for name, value in values.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        if isinstance(value, dict):
            yield from flags_of(value, f"{flag}.")
        elif flag != "experiment":
            words = value if isinstance(value, list) else [value]
            yield f"--{flag}", " ".join(shlex.quote(str(word)) for word in words)


@pytest.mark.parametrize("name", CONFIGS)
def test_help_of_a_config_shows_every_field_with_its_meaning_and_default(configs, helps, name):
    outcome = helps[name]
    assert (outcome.code, outcome.err) == (0, "")
    assert f"usage: python train.py configs/{name}" in outcome.text
    for flag, default in flags_of(configs[name]):
        # the flag, what it takes, the text (up to the next flag at most), the default
        pattern = rf"(?<!\S){re.escape(flag)} \S+(?: \[.*?\])? ((?:(?! --).)*?) ?\(default: (.*?)\)(?= |$)"
        shown = re.search(pattern, outcome.text)
        assert shown, f"{flag} is not in the help"
        assert len(shown[1].split()) >= 2, f"{flag} has no help text"
        assert shown[2].replace(" ", "") == default.replace(" ", ""), flag  # a long one is broken at its punctuation


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_is_a_known_experiment(configs, name):
    assert configs[name]["experiment"] in {*KINDS, *OF_SEVERAL}


def test_the_base_config_has_the_paper_s_sizes(configs):
    """Section 4.2: bert-base-uncased with RoPE; batch 64, length 512, 100,000 steps, AdamW at 1e-5, masked LM."""
    base = configs["pretrain_base.py"]
    sizes = {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_encoding": "rope",
        "rope_theta": 10_000.0, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    }  # fmt: skip
    assert sizes.items() <= base["model"].items()
    assert (base["data"]["length"], base["training"]["batch_size"], base["training"]["steps"]) == (512, 64, 100_000)
    assert (base["optimizer"]["learning_rate"], base["masking"]["probability"]) == (1e-5, 0.15)


def test_help_lists_the_commands_as_a_process_and_as_a_function(process, here):
    outcome = process("-m", "roformer_jax", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    with_runs = ("evaluate RUN", "predict RUN", "generate RUN", "length RUN", "export RUN")
    for command in ("train CONFIG", "table [CONFIG]", "plan CONFIG", *with_runs, "import CHECKPOINT", "rope"):
        assert f"\n  {command} " in outcome.out
    assert here() == here("-h") == here("train", "--help") == outcome


@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("evaluate", "PATH"),
        ("predict", "--output PATH"),
        ("generate", "--prompt STR"),
        ("length", "--lengths"),
        ("rope", "--scaling"),
    ],
)
def test_every_other_command_answers_help(here, command, argument):
    outcome = here(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"usage: python -m roformer_jax {command}" in outcome.text
    assert argument in outcome.text


def test_plan_answers_help_and_refuses_what_it_cannot_plan(commands):
    helped, *refused = commands(
        ["plan", "configs/pretrain_base.py", "--help"],
        ["plan"],
        ["plan", "configs/quickstart.py", "--topology", "v5e:2x4"],
        ["plan", "configs/glue.py", "--topology", "v3:8"],
    )
    assert (helped.code, helped.err) == (0, "")
    for flag in ("--topology STR", "--price", "--json", "--sweep", "--mesh.fsdp INT", "--training.microbatches INT"):
        assert flag in helped.text
    messages = (
        "error: name a config file first, e.g. `plan configs/pretrain_base.py --topology v5e:2x4`",
        "error: plan takes one experiment, and this config is a Quickstart",
        "error: --topology v3:8: not a topology that is known here; they are written v5e:2x4",
    )
    for outcome, message in zip(refused, messages, strict=True):
        assert (outcome.code, outcome.out) == (2, "")
        assert message in outcome.text


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("eval", "evaluate"), ("prediction", "predict")])
def test_an_unknown_command_suggests_the_nearest(here, typed, meant):
    outcome = here(typed, "runs/x")
    assert (outcome.code, outcome.out) == (2, "")
    assert f"error: no command '{typed}'; did you mean {meant}?" in outcome.err


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("configs/pretrain_smal.py", "; did you mean configs/pretrain_small.py?"),
        ("pretrain_small", "; did you mean configs/pretrain_small.py?"),
        ("config/glue.py", "; did you mean configs/glue.py?"),
        ("configs/unheard_of.py", "; there are configs/charlm_comparison.py, "),
    ],
)
def test_a_config_file_that_is_not_there_suggests_the_nearest(here, typed, hint):
    outcome = here("train", typed)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"error: there is no config file {typed}{hint}" in outcome.err


@pytest.mark.parametrize("arguments", [[], ["--task", "rte"]])
def test_train_without_a_config_file_says_what_is_missing(here, arguments):
    outcome = here("train", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "error: name a config file first, e.g. `train.py configs/quickstart.py`" in outcome.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("notes.txt", "text", "notes.txt is not a Python file"), ("mine.py", "x = 1", "mine.py defines no get_config()")],
)
def test_a_file_that_is_no_config_is_refused(here, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    outcome = here("train", str(tmp_path / name))
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_config_file_that_refuses_its_own_values_is_a_message_too(here, tmp_path):
    path = tmp_path / "mine.py"
    lines = ["from roformer_jax.models import RoFormerConfig", "get_config = lambda: RoFormerConfig(hidden_size=7)"]
    path.write_text("\n".join(lines))
    outcome = here("train", str(path))
    assert outcome.code == 2
    assert outcome.err == "error: model.num_attention_heads = 12 does not divide model.hidden_size = 7\n"


def test_a_reader_that_has_seen_enough_is_no_error(environment):
    """As of `... | head`: here it is gone before the first line."""
    command = [sys.executable, "-m", "roformer_jax", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
