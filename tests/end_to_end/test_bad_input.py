"""Bad input of every kind ends with exit code 2 and one message that names it, before anything is made or written."""

import contextlib

import pytest

import roformer_jax.experiment

PRETRAINING = [
    *["--data.length", "32", "--data.holdout", "0.2", "--training.batch-size", "8", "--training.steps", "10"],
    *["--model.vocab-size", "120", "--model.hidden-size", "16", "--model.num-hidden-layers", "1"],
    *["--model.num-attention-heads", "2", "--model.intermediate-size", "32"],
]


@pytest.fixture(scope="module")
def material(tmp_path_factory, texts, table):
    """Good texts and a good table, and what is wrong with the others is in their names."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "texts").symlink_to(texts)
    (folder / "table.csv").symlink_to(table)
    for name, content in {"latin": b"fine\ncaf\xe9\n", "binary": b"first\nsec\0nd\n"}.items():
        (folder / name).mkdir()
        (folder / name / "page.txt").write_bytes(content)
    (folder / "empty").mkdir()
    (folder / "other_labels.csv").write_text("text,label\nstone,animal\nrock,mineral\n", encoding="utf-8")
    (folder / "one_label.csv").write_text("text,label\nape,animal\nbat,animal\n", encoding="utf-8")
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc", encoding="utf-8")
    rte = folder / "glue" / "RTE"
    rte.mkdir(parents=True)
    for split, label in {"train": "entailment", "dev": "-1"}.items():
        header = "index\tsentence1\tsentence2\tlabel"
        rows = ["0\ta b\tc d\tentailment", "1\te f\tg h\tnot_entailment", f"2\ti j\tk l\t{label}"]
        (rte / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def refused(here, monkeypatch, tmp_path):
    """Runs a command that must be refused; returns its message."""

    def never(*_):
        pytest.fail("parameters were made before the input was checked")

    monkeypatch.setattr(roformer_jax.experiment, "initial_params", never)
    # A thread would go on compiling into the cache; the process of a command ends with its message.
    monkeypatch.setattr(roformer_jax.experiment, "begun", lambda *_: contextlib.nullcontext())

    def refused(*arguments):
        outcome = here(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert "Traceback" not in outcome.err
        return outcome.text

    return refused


TEXTS, TABLE, RTE = ["--data.path", "texts"], ["--data.path", "table.csv"], ["--task", "rte", "--folder", "glue"]
BAD = {  # experiment, flags, what the message says
    "a flag that is not there": (
        "Pretraining", [*TEXTS, "--model.hiden-size", "32"],
        "Unrecognized options: --model.hiden-size, 32 Perhaps you meant: --model.hidden-size INT",
    ),
    "a value of another type": (
        "Pretraining", [*TEXTS, "--training.steps", "many"], "Error parsing --training.steps: no type matching",
    ),
    "a value that is not a choice": (
        "Pretraining", [*TEXTS, "--model.dtype", "float16"],
        "invalid choice 'float16' for argument '--model.dtype'. Expected one of ('float32', 'bfloat16')",
    ),
    "a task that is not in GLUE": ("Glue", ["--task", "mrcp"], "invalid choice 'mrcp' for argument '--task'"),
    "no data path": ("Pretraining", [], "data.path is not set: name a folder or file of text"),
    "no such folder": ("Pretraining", ["--data.path", "absent"], "absent: no such file or folder"),
    "an empty folder": (
        "Pretraining", ["--data.path", "empty"], "empty: no file of this folder matches '**/*.txt'",
    ),
    "a file in another encoding": (
        "Pretraining", ["--data.path", "latin"], "latin/page.txt:2: byte 0xe9 is not utf-8",
    ),
    "a binary file": ("Pretraining", ["--data.path", "binary"], "binary/page.txt:2: NUL character"),
    "a package that is not installed": (
        "Pretraining", ["--data.path", "package:no_such_package/texts"],
        "the package 'no_such_package' is not installed; run: pip install no_such_package",
    ),
    "a data set that TFDS has not prepared": (
        "Pretraining", ["--data.path", "tfds:glue/ax:test", "--data.column", "premise"],
        'prepare it once with tfds.builder("glue/ax", file_format="array_record").download_and_prepare()',
    ),
    "a text column that is not there": (
        "Pretraining", [*TABLE, "--data.column", "body"],
        "table.csv: no column 'body'; the columns are ['text', 'label', 'score']",
    ),
    "a share held out that is none": (
        "Pretraining", [*TEXTS, "--data.holdout", "1.5"], "data.holdout = 1.5 must lie strictly between 0 and 1",
    ),
    "a vocabulary larger than the model's": (
        "Pretraining", [*TEXTS, "--data.tokenizer", "vocab.txt", "--model.vocab-size", "7"],
        "holds 8 tokens, the model only 7: set model.vocab_size to 8 or more",
    ),
    "heads that do not divide the width": (
        "Pretraining", [*TEXTS, "--model.num-attention-heads", "3"],
        "model.num_attention_heads = 3 does not divide model.hidden_size = 16",
    ),
    "heads of odd size": (
        "Pretraining", [*TEXTS, "--model.hidden-size", "6"],
        "the head size is odd: model.hidden_size = 6 / model.num_attention_heads = 2 = 3",
    ),
    "rows longer than the position table": (
        "Pretraining", [*TEXTS, "--model.position-encoding", "learned", "--model.max-position-embeddings", "16"],
        "rows of 32 tokens do not fit the learned position table: model.max_position_embeddings = 16",
    ),
    "a mesh that is not the devices": (
        "Pretraining", [*TEXTS, "--mesh.data", "3"], "sequence=1 does not cover the 8 devices of this run",
    ),
    "microbatches that do not divide the batch": (
        "Pretraining", [*TEXTS, "--training.microbatches", "3"],
        "training.microbatches = 3 does not divide training.batch_size = 8",
    ),
    "no updates": ("Pretraining", [*TEXTS, "--training.steps", "0"], "training.steps must be 1 or more, but is 0"),
    "a negative seed": ("Pretraining", [*TEXTS, "--seed", "-1"], "seed = -1 must lie in [0, 2^32)"),
    "a start from what is no run": (
        "Pretraining", [*TEXTS, "--init-from", "texts"], "texts is not a run: config.json is missing",
    ),
    "a label column that is not there": (
        "Classification", [*TABLE, "--data.label-column", "verdict"],
        "table.csv: no column 'verdict'; the columns are ['text', 'label', 'score']",
    ),
    "three text columns": (
        "Classification", [*TABLE, "--data.text-columns", "a", "b", "c"], "name one column, or two for pairs",
    ),
    "one class": (
        "Classification", ["--data.path", "one_label.csv"], "every row has the label 'animal'",
    ),
    "a label that training never saw": (
        "Classification", [*TABLE, "--data.validation-path", "other_labels.csv"],
        "other_labels.csv:3: label 'mineral' is not one of ['animal', 'tool'",
    ),
    "a score that is no number": (
        "Classification", [*TABLE, "--data.regression", "True"], "table.csv:3: label 'tool' is not a finite number",
    ),
    "a table in an unknown format": (
        "Classification", ["--data.path", "vocab.txt"], "vocab.txt: .txt suffix; a table is one of .csv, .tsv, .jsonl",
    ),
    "no such GLUE folder": ("Glue", ["--folder", "absent"], "absent: no such file or folder"),
    "a GLUE folder without the task": (
        "Glue", ["--task", "cola", "--folder", "glue"], "glue: no train.tsv for CoLA here or in CoLA/",
    ),
    "a hidden label in a GLUE development set": (
        "Glue", RTE, "dev.tsv:4: label '-1' is not one of ['entailment', 'not_entailment'",
    ),
    "an example longer than any row": ("Glue", [*RTE, "--length", "4"], "length = 4: a row needs at least 8 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_is_refused_by_name_and_nothing_is_written(case, refused, config_of, material, monkeypatch, tmp_path):
    experiment, flags, message = BAD[case]
    config = config_of(experiment)
    tiny = PRETRAINING if experiment == "Pretraining" else []
    monkeypatch.chdir(material)
    assert message in refused("train", config, *tiny, *flags)
    assert [path.suffix for path in tmp_path.iterdir()] == [".py"], "something was written beside the config"


def test_a_warm_up_longer_than_the_run_is_refused_before_the_run_is_made(refused, config_of, texts, tmp_path):
    """The length of a run given in epochs is known only when its text is tokenised: that much is cached."""
    flags = [*PRETRAINING, "--data.path", str(texts), "--optimizer.warmup", "11"]
    assert "warmup of 11 updates is longer than the run of 10" in refused("train", config_of("Pretraining"), *flags)
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_config_is_refused_with_both_values(refused, pretrained, pretraining_flags, files):
    before = files(pretrained)
    message = refused("train", "configs/pretrain_small.py", *pretraining_flags(pretrained, steps=31))
    assert f"{pretrained} holds a run of another config: training.steps was 30, now 31" in message
    assert files(pretrained) == before


def test_a_folder_with_other_files_is_refused_and_left_alone(refused, pretraining_flags, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    message = refused("train", "configs/pretrain_small.py", *pretraining_flags(tmp_path, steps=3))
    assert f"--run-dir {tmp_path} is not empty and holds no run (config.json is missing)" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_folder_that_is_a_file_is_refused(refused, pretraining_flags, tmp_path):
    path = tmp_path / "notes"
    path.write_text("mine")
    message = refused("train", "configs/pretrain_small.py", *pretraining_flags(path, steps=3))
    assert f"--run-dir {path} is a file, not a folder" in message
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "absent"], "absent is not a run: config.json is missing"),
        (["predict", "absent", "--output", "out.tsv"], "absent is not a run: config.json is missing"),
        (["evaluate"], "Missing from python -m roformer_jax evaluate: PATH Folder of the run."),
        (["predict", "absent"], "Missing from python -m roformer_jax predict: --output PATH"),
    ],
)
def test_commands_on_no_run_are_refused(refused, command, message):
    assert message in refused(*command)


def test_a_run_whose_checkpoints_are_gone_is_refused(refused, pretrained, tmp_path):
    for name in ("config.json", "data.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((pretrained / name).read_bytes())
    assert f"there is no checkpoint in {tmp_path / 'checkpoints'}" in refused("evaluate", str(tmp_path))
