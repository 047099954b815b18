"""No field of any experiment takes a bad value: exit code 2, the field named, nothing made or written.

The fields are found in the dataclasses. One that is added is tried with all that is bad for its type: a number, say,
has to be positive and finite. Where a field takes more than others of its type, or less, that is said here.
"""

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import roformer_jax.experiment
from roformer_jax.trained import KINDS

MAY_BE_ZERO = {
    "model.hidden_dropout_prob", "model.attention_probs_dropout_prob", "optimizer.warmup", "optimizer.weight_decay",
    "optimizer.b1", "optimizer.b2", "seed", "model.type_vocab_size", "label_smoothing", "search.length_penalty",
}  # fmt: skip
MAY_BE_MINUS_ONE = {"mesh.data"}  # all devices that remain
MAY_BE_INFINITE = {"optimizer.clip_norm", "training.spike_sigmas"}  # nothing is clipped, no loss is a spike
BELOW_ONE = {
    "model.hidden_dropout_prob", "model.attention_probs_dropout_prob", "optimizer.b1", "optimizer.b2", "data.holdout",
    "label_smoothing",
}  # fmt: skip
AT_MOST_ONE = {"masking.probability"}
NEW_FOLDERS = {"run_dir", "cache_dir"}  # take every name but that of a file
ONLY_OF_A_FOLDER = {"data.pattern"}  # means nothing for a table

ABSENT = "absent"  # the name of no file, folder, column or encoding, and no other text with a meaning
FEW = settings(deadline=None, max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Field(NamedTuple):
    """A field of a kind of experiment, by its dotted path."""

    kind: str
    path: str
    hint: Any

    @property
    def flag(self) -> str:
        return "--" + self.path.replace("_", "-")

    @property
    def type(self) -> Any:
        """The type of its values, but for None."""
        if get_origin(self.hint) in (Literal, tuple, None):
            return self.hint
        (kind,) = (kind for kind in get_args(self.hint) if kind is not NoneType)
        return kind


def fields_of(config: type, prefix: str = "") -> dict[tuple[type, str], tuple[str, Any]]:
    """(dataclass, name) -> (path, annotation) of its fields and those of the configs within it."""
    found = {}
    for name, hint in get_type_hints(config).items():
        if dataclasses.is_dataclass(hint):
            found |= fields_of(hint, f"{prefix}{name}.")
        else:
            owner = next(base for base in config.__mro__ if name in inspect.get_annotations(base))
            found[owner, name] = prefix + name, hint
    return found


def all_fields() -> list[Field]:
    """Every field once, in the first kind of experiment that has it: they share most of them."""
    found: dict[tuple[type, str], Field] = {}
    for kind, config in KINDS.items():
        for place, (path, hint) in fields_of(config).items():
            found.setdefault(place, Field(kind, path, hint))
    return list(found.values())


FIELDS = all_fields()


def bad_values(field: Field, a_file: str) -> tuple[list[str], st.SearchStrategy[str]]:
    """Values that are always tried, and others to draw from."""
    if get_origin(field.type) is Literal:
        choices = get_args(field.type)
        return [], st.from_regex("[A-Za-z0-9]+", fullmatch=True).filter(lambda word: word not in choices)
    if field.type is bool:
        return [], st.sampled_from(["maybe", "yes", "on", "0.5", "2", "None", ""])
    if field.type is int:
        return bad_whole_numbers(field.path)
    if field.type is float:
        return bad_numbers(field.path)
    if field.type in (str, tuple[str, ...]):
        return ["", a_file if field.path in NEW_FOLDERS else ABSENT], st.nothing()
    raise NotImplementedError(f"say here which values are bad for {field}")


def bad_whole_numbers(path: str) -> tuple[list[str], st.SearchStrategy[str]]:
    highest = -2 if path in MAY_BE_MINUS_ONE else -1
    zero = [] if path in MAY_BE_ZERO else ["0"]
    drawn = st.integers(max_value=highest).map(str) | st.sampled_from(["many", "1.5", "1e3", "nan", "0x10", "1 2", ""])
    return [str(highest), *zero], drawn


def bad_numbers(path: str) -> tuple[list[str], st.SearchStrategy[str]]:
    zero = [] if path in MAY_BE_ZERO else ["0"]
    infinite = "-inf" if path in MAY_BE_INFINITE else "inf"
    too_large = ["1"] if path in BELOW_ONE else ["1.01"] if path in AT_MOST_ONE else []
    drawn = st.floats(max_value=0, exclude_max=True).map(repr)
    return ["nan", infinite, "-0.5", *zero, *too_large], drawn | st.sampled_from(["many", "1,5", "0x1p3", "1 2", ""])


@pytest.fixture(scope="module")
def good(tmp_path_factory, table) -> dict[str, list[str]]:
    """Flags with which each kind of experiment would start."""
    glue = tmp_path_factory.mktemp("glue")
    rows = [f"{i}\tape {i}\tbat\t{'not_' * (i % 2)}entailment" for i in range(8)]
    for split in ("train", "dev"):
        content = "\n".join(["index\tsentence1\tsentence2\tlabel", *rows])
        (glue / f"{split}.tsv").write_text(content, encoding="utf-8")
    model = ["--model.vocab-size", "300", "--model.hidden-size", "16", "--model.num-attention-heads", "2"]
    common = [*model, "--training.batch-size", "8", "--training.steps", "10"]
    of_table = [*common, "--data.path", str(table), "--data.holdout", "0.2"]
    of_rows = [*of_table, "--data.length", "32"]
    lines = tmp_path_factory.mktemp("pairs") / "lines.txt"
    lines.write_text("\n".join(f"ape {i} bat" for i in range(40)), encoding="utf-8")
    pairs = [part for name in ("", "heldout-", "test-") for side in ("source", "target")
             for part in (f"--data.{name}{side}", str(lines))]  # fmt: skip
    triples = tmp_path_factory.mktemp("triples") / "triples.csv"
    rows = [f"ape {i},bat {i},cat {i}" for i in range(40)]
    triples.write_text("\n".join(["A,B,C", *rows]) + "\n", encoding="utf-8")
    return {
        "Pretraining": of_rows,
        "DocumentLM": of_rows,
        "ByteLM": of_rows,
        "Classification": [*of_table, "--length", "64"],
        "Glue": [*common, "--task", "rte", "--folder", str(glue), "--length", "64"],
        "SimilarCases": [*common, "--data.path", str(triples), "--length", "64"],
        "Translation": [*common, *pairs, "--data.length", "32"],
    }


class Started(Exception):  # noqa: N818 (an event, not an error)
    """An experiment was about to make its parameters."""


@pytest.fixture
def start(here, monkeypatch, good, tmp_path) -> Callable[..., Any]:
    """`start("Glue", "--length", "8")` trains with good flags and these, up to where parameters would be made."""

    def stop(*_):
        raise Started

    monkeypatch.setattr(roformer_jax.experiment, "initial_params", stop)
    # Nothing is trained here: a program for every refused value would be compiled long after its refusal.
    monkeypatch.setattr(roformer_jax.experiment, "begun", lambda *_: contextlib.nullcontext())
    for kind in KINDS:
        folders = f"run_dir={str(tmp_path / 'run')!r}, cache_dir={str(tmp_path / 'cache')!r}"
        source = f"from roformer_jax.trained import KINDS\n\n\ndef get_config():\n    return KINDS[{kind!r}]({folders})"
        (tmp_path / f"{kind}.py").write_text(source, encoding="utf-8")
    return lambda kind, *flags: here("train", str(tmp_path / f"{kind}.py"), *good[kind], *flags)


@pytest.fixture
def refused(start, tmp_path) -> Callable[..., str]:
    """As `start`, of what must be refused; returns the message."""

    def refused(kind: str, *flags: str) -> str:
        before = sorted(tmp_path.iterdir())
        outcome = start(kind, *flags)
        assert (outcome.code, outcome.out) == (2, ""), flags
        assert "Traceback" not in outcome.err
        assert sorted(tmp_path.iterdir()) == before, "something was written"
        return outcome.text

    return refused


def names(message: str, path: str) -> bool:
    """Whether a message speaks of a field, as a flag or as in a config file."""
    forms = f"{re.escape(path)}|--{re.escape(path.replace('_', '-'))}"
    return re.search(rf"(?<![\w.])({forms})(?![\w-])", message) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_bad_value_is_in_the_way_of_a_run(kind, start):
    with pytest.raises(Started):
        start(kind)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field.kind}-{field.path}")
def test_a_bad_value_is_refused_by_name(field, refused, texts, tmp_path):
    always, drawn = bad_values(field, str(tmp_path / "Glue.py"))
    more = ["--data.path", str(texts)] if field.path in ONLY_OF_A_FOLDER else []

    def is_refused(value: str) -> None:
        message = refused(field.kind, field.flag, value, *more)
        by_value = field.type in (str, tuple[str, ...]) and value and value in message
        assert by_value or names(message, field.path), (value, message)

    for value in always:
        is_refused(value)
    if not drawn.is_empty:
        FEW(given(drawn)(is_refused))()


WRONG_TYPE = {int: "8", float: "0.5", bool: "no", str: 5, tuple[str, ...]: "text"}  # of a choice: 5


def test_a_config_file_with_a_value_of_another_type_is_refused_by_name(commands, tmp_path):
    """As a file of Python may hold anything. The process has no type checker but the project's own."""
    paths = [tmp_path / f"{number}.py" for number in range(len(FIELDS))]
    for field, path in zip(FIELDS, paths, strict=True):
        *outer, name = field.path.split(".")
        change = f"{name}={WRONG_TYPE.get(field.type, 5)!r}"
        for config in outer:
            change = f"{config}=replace(good.{config}, {change})"
        source = f"""
from dataclasses import replace
from roformer_jax.trained import KINDS

def get_config():
    good = KINDS[{field.kind!r}](run_dir="run")
    return replace(good, {change})
"""
        path.write_text(source, encoding="utf-8")
    outcomes = commands(*(["train", str(path)] for path in paths))
    for field, outcome in zip(FIELDS, outcomes, strict=True):
        assert (outcome.code, outcome.out) == (2, ""), (field, outcome.err)
        assert names(outcome.text, field.path), (field, outcome.text)


@FEW
@given(field=st.sampled_from(FIELDS), data=st.data())
def test_a_misspelt_flag_is_refused_by_name(field, data, refused):
    """A letter is dropped, doubled, or swapped with the next."""
    start = field.flag.rfind(".") + 1 or 2
    at = data.draw(st.integers(start, len(field.flag) - 2))
    head, first, second, tail = field.flag[:at], field.flag[at], field.flag[at + 1], field.flag[at + 2 :]
    flag = head + data.draw(st.sampled_from([second, first + first + second, second + first])) + tail
    assume(flag not in {other.flag for other in FIELDS})
    assert f"Unrecognized options: {flag}" in refused(field.kind, flag, "1")


@FEW
@given(st.integers(1, 40), st.integers(1, 40))
def test_heads_that_do_not_divide_the_width_evenly_are_refused_by_name(refused, heads, width):
    assume(width % heads or width // heads % 2)
    message = refused("ByteLM", "--model.num-attention-heads", str(heads), "--model.hidden-size", str(width))
    assert f"model.num_attention_heads = {heads}" in message
    assert f"model.hidden_size = {width}" in message


@FEW
@given(st.integers(1, 20), st.integers(1, 20))
def test_a_warm_up_longer_than_the_run_is_refused_by_name(refused, steps, more):
    message = refused("Glue", "--training.steps", str(steps), "--optimizer.warmup", str(steps + more))
    assert f"optimizer.warmup = {steps + more}.0" in message
    assert f"longer than the run of {steps}" in message


@FEW
@given(st.integers(1, 20), st.integers(2, 20))
def test_microbatches_that_do_not_divide_the_batch_are_refused_by_name(refused, rows, parts):
    assume(rows % parts)
    message = refused("DocumentLM", "--training.batch-size", str(rows), "--training.microbatches", str(parts))
    assert f"training.microbatches = {parts} does not divide training.batch_size = {rows}" in message


def test_what_is_said_of_single_fields_here_is_said_of_fields_that_exist():
    said = MAY_BE_ZERO | MAY_BE_MINUS_ONE | MAY_BE_INFINITE | BELOW_ONE | AT_MOST_ONE | NEW_FOLDERS | ONLY_OF_A_FOLDER
    assert said <= {field.path for field in FIELDS}
