"""The nine GLUE tasks, from official files to submission files."""

from typing import NamedTuple

import pytest
import tensorflow_datasets as tfds

from roformer_jax.run_folder import read_json

WORDS = "the a cat dog sees hears old new red blue house tree".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TEST_ROWS, BATCH = 6, 4
# Columns of the official files; those of the test sets come first and lack the label, which is always the last one.
PAIR = "index sentence1 sentence2"
STSB = "index genre filename year old_index source1 source2 sentence1 sentence2"
MNLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2"
)


class Form(NamedTuple):
    """How a task's official files look, and what is expected of a run."""

    folder: str
    test: str
    train: str
    labels: tuple[str, ...]
    metrics: set[str]
    submitted: set[str]


BINARY, NAMES = ("0", "1"), ("entailment", "not_entailment")
MNLI_NAMES = ("entailment", "neutral", "contradiction")
FORMS = {
    "cola": Form("CoLA", "index sentence", "source label star sentence", BINARY, {"matthews"}, {"0", "1"}),
    "sst2": Form("SST-2", "index sentence", "sentence label", BINARY, {"accuracy"}, {"0", "1"}),
    "mrpc": Form(
        "MRPC", "index|#1 ID|#2 ID|#1 String|#2 String", "Quality|#1 ID|#2 ID|#1 String|#2 String", BINARY,
        {"accuracy", "f1"}, {"0", "1"},
    ),
    "stsb": Form("STS-B", STSB, f"{STSB} score", ("0.000", "2.5", "5.000"), {"pearson", "spearman"}, set()),
    "qqp": Form(
        "QQP", "id question1 question2", "id qid1 qid2 question1 question2 is_duplicate", BINARY,
        {"accuracy", "f1"}, {"0", "1"},
    ),
    "mnli": Form(
        "MNLI", MNLI, f"{MNLI} label1 gold_label", MNLI_NAMES,
        {f"{split}/{name}" for split in ("matched", "mismatched") for name in ("accuracy", "loss")}, set(MNLI_NAMES),
    ),
    "qnli": Form("QNLI", "index question sentence", "index question sentence label", NAMES, {"accuracy"}, set(NAMES)),
    "rte": Form("RTE", PAIR, f"{PAIR} label", NAMES, {"accuracy"}, set(NAMES)),
    "wnli": Form("WNLI", PAIR, f"{PAIR} label", BINARY, {"accuracy"}, {"0", "1"}),
}  # fmt: skip
LABELS = {"label", "Quality", "score", "is_duplicate", "gold_label"}
TEXTS = {"sentence", "sentence1", "sentence2", "question", "question1", "question2", "#1 String", "#2 String"}


def columns_of(header: str) -> list[str]:
    return header.split("|") if "|" in header else header.split()


def lines(task: str, header: str, rows: int) -> list[str]:
    """A header and rows; every example has ten words, so that all tasks have the same shapes and share programs."""
    columns = columns_of(header)
    words = 10 // len(TEXTS.intersection(columns)) + (len(TEXTS.intersection(columns)) == 1)

    def field(name, row):
        if name in TEXTS:
            return " ".join(WORDS[(row * 5 + len(name) + k * (row % 3 + 1)) % len(WORDS)] for k in range(words))
        return FORMS[task].labels[row % len(FORMS[task].labels)] if name in LABELS else str(row)

    return ["\t".join(columns), *("\t".join(field(name, row) for name in columns) for row in range(rows))]


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """A GLUE folder of few rows, with what is peculiar in the official files: CoLA's labelled sets have no header."""
    root = tmp_path_factory.mktemp("glue")
    (root / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    for task, form in FORMS.items():
        (root / form.folder).mkdir()
        suffixes = ("_matched", "_mismatched") if task == "mnli" else ("",)
        files = {"train": (form.train, 12)}
        files |= {f"dev{suffix}": (form.train, 6) for suffix in suffixes}
        files |= {f"test{suffix}": (form.test, TEST_ROWS) for suffix in suffixes}
        for name, (header, rows) in files.items():
            content = lines(task, header, rows)[task == "cola" and not name.startswith("test") :]
            encoding = "utf-8-sig" if task == "mrpc" else "utf-8"  # MRPC's files begin with a byte order mark
            (root / form.folder / f"{name}.tsv").write_text("\n".join(content) + "\n", encoding=encoding)
    return root


def arguments(config, task, folder, root, more):
    return [
        *["train", config, "--task", task, "--folder", folder, "--tokenizer", str(root / "vocab.txt")],
        *["--run-dir", str(more / task), "--cache-dir", str(more / "cache"), "--length", "28"],
        *["--training.batch-size", str(BATCH), "--training.steps", "3"],
        *["--model.vocab-size", "20", "--model.hidden-size", "16", "--model.num-hidden-layers", "1"],
        *["--model.num-attention-heads", "2", "--model.intermediate-size", "32"],
        *["--model.hidden-dropout-prob", "0", "--model.attention-probs-dropout-prob", "0"],
    ]


@pytest.fixture(scope="module")
def runs(glue, commands, tmp_path_factory):
    """Every task trained and its submission written: the folder, and both outcomes of each task."""
    folder = tmp_path_factory.mktemp("glue_runs")
    calls = []
    for task in FORMS:
        calls += [arguments("configs/glue.py", task, str(glue), glue, folder)]
        calls += [["predict", str(folder / task), "--output", str(folder / "submissions")]]
    done = commands(*calls)
    return folder, dict(zip(FORMS, zip(done[::2], done[1::2], strict=True), strict=True))


@pytest.mark.parametrize("task", FORMS)
def test_every_task_trains_and_is_scored_with_its_official_metrics(runs, task):
    folder, outcomes = runs
    trained, _ = outcomes[task]
    assert trained.code == 0, trained.err
    expected = FORMS[task].metrics | (set() if task == "mnli" else {"loss"})
    assert set(read_json(folder / task / "results.json")["metrics"]) == expected
    printed = trained.out.partition("results after 3 updates")[2]
    assert all(f"  {name} " in printed for name in expected)


@pytest.mark.parametrize("task", FORMS)
def test_submission_files_have_the_official_names_rows_and_labels(runs, task):
    folder, outcomes = runs
    _, predicted = outcomes[task]
    assert predicted.code == 0, predicted.err
    names = ["MNLI-m.tsv", "MNLI-mm.tsv"] if task == "mnli" else [f"{FORMS[task].folder}.tsv"]
    assert predicted.out.splitlines() == [f"wrote {folder / 'submissions' / name}" for name in names]
    for name in names:
        header, *rows = (folder / "submissions" / name).read_text(encoding="utf-8").splitlines()
        assert header == "index\tprediction"
        indices, values = zip(*(row.split("\t") for row in rows), strict=True)
        assert indices == tuple(str(i) for i in range(TEST_ROWS))
        if task == "stsb":
            assert all(0 <= float(value) <= 5 and len(value.partition(".")[2]) == 3 for value in values)
        else:
            assert set(values) <= FORMS[task].submitted


def test_a_task_is_read_from_tensorflow_datasets(glue, here, config_of, tmp_path):
    with tfds.testing.mock_data(num_examples=16):
        outcome = here(*arguments(config_of("Glue"), "rte", "tfds:glue", glue, tmp_path))
    assert outcome.code == 0, outcome.err
    assert "training examples  16" in outcome.out
    assert set(read_json(tmp_path / "rte" / "results.json")["metrics"]) == {"loss", "accuracy"}
