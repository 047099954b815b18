import dataclasses
import errno
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from roformer_jax.data.masking import MaskingConfig
from roformer_jax.errors import InputError
from roformer_jax.finetuning import Classification, Glue, SimilarCases, TableConfig, TriplesConfig
from roformer_jax.language_modelling import ByteLM, DocumentLM
from roformer_jax.models import RoFormerConfig
from roformer_jax.pretraining import Pretraining
from roformer_jax.run_folder import (
    CONFIG,
    DATA,
    LOCK,
    TOKENIZER,
    as_json,
    check_data,
    check_folder,
    flatten,
    from_json,
    locked,
    open_folder,
    read_json,
    write_json,
)
from roformer_jax.sharding import MeshConfig
from roformer_jax.tasks.beam_search import SearchConfig
from roformer_jax.tasks.corpus import CorpusConfig, StreamConfig
from roformer_jax.tasks.parallel_corpus import PairsConfig
from roformer_jax.trained import KINDS
from roformer_jax.training.loop import TrainingConfig
from roformer_jax.training.optimizer import OptimizerConfig
from roformer_jax.translation import Translation

COMMON = dict(
    run_dir="runs/x",
    model=RoFormerConfig(hidden_size=48, num_attention_heads=3, position_encoding="learned", dtype="bfloat16"),
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup=5.0, clip_norm=float("inf")),
    training=TrainingConfig(batch_size=6, microbatches=3, steps=7, epochs=0.5),
    mesh=MeshConfig(data=2, fsdp=4),
    init_from="runs/y",
    seed=2**32 - 1,
)
DISTINCT = {  # no field that matters is left at its default
    "Pretraining": Pretraining(
        **COMMON,
        data=CorpusConfig(path="texts/é", tokenizer="vocab.txt", lowercase=False, holdout=0.1),
        masking=MaskingConfig(probability=0.2, whole_word=True),
    ),
    "DocumentLM": DocumentLM(**COMMON, data=CorpusConfig(path="texts", tokenizer="bytes", length=64)),
    "ByteLM": ByteLM(**COMMON, data=StreamConfig(path="enwik8.gz", first_bytes=100, length=64, holdout=0.5)),
    "Classification": Classification(
        **COMMON,
        length=64,
        data=TableConfig(
            path="a.csv", validation_path="b.csv", text_columns=("q", "a"), regression=True, unlabelled="-"
        ),
    ),
    "Glue": Glue(**COMMON, task="stsb", folder="tfds:glue", tokenizer="vocab.txt", lowercase=False),
    "SimilarCases": SimilarCases(
        **COMMON, length=64, data=TriplesConfig(path="a.jsonl", validation_path="b.jsonl", holdout=0.5)
    ),
    "Translation": Translation(
        **COMMON | {"init_from": None},
        data=PairsConfig(source="a.en.gz", target="a.de", test_source=("b.en", "c.en"), test_target=("b.de", "c.de")),
        search=SearchConfig(beam=3, length_penalty=1.0),
        label_smoothing=0.0,
        averaged=2,
    ),
}
BASE = Pretraining(run_dir="run")
DATA_OF_RUN = {"train": "0123", "label_names": ["a", "b"]}
TOKENIZER_OF_RUN = SimpleNamespace(save=lambda path: path.write_text("tokenizer"))


@pytest.fixture
def run(tmp_path):
    """A folder that `BASE` has opened."""
    folder = tmp_path / "run"
    with locked(folder):
        open_folder(folder, as_json(BASE), DATA_OF_RUN, TOKENIZER_OF_RUN)
    return folder


def test_every_kind_of_experiment_is_covered():
    assert set(DISTINCT) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distinct", [True, False])
def test_an_experiment_survives_its_json(kind, distinct):
    experiment = DISTINCT[kind] if distinct else KINDS[kind](run_dir="run")
    values = json.loads(json.dumps(as_json(experiment)))
    assert values["experiment"] == kind
    assert from_json(KINDS[kind], values) == experiment


def test_a_config_of_another_version_is_refused_by_field():
    values = as_json(BASE)
    with pytest.raises(InputError, match=r"Pretraining has the fields .*; unknown: colour; missing: seed"):
        from_json(Pretraining, {name: value for name, value in values.items() if name != "seed"} | {"colour": 1})
    values["model"] = {name: value for name, value in values["model"].items() if name != "rope_theta"}
    with pytest.raises(InputError, match=r"RoFormerConfig has the fields .*; unknown: none; missing: rope_theta"):
        from_json(Pretraining, values)


def test_a_new_folder_holds_config_data_and_tokenizer(run):
    assert sorted(file.name for file in run.iterdir()) == sorted([CONFIG, DATA, TOKENIZER, LOCK])
    assert from_json(Pretraining, read_json(run / CONFIG)) == BASE
    assert read_json(run / DATA) == DATA_OF_RUN
    assert (run / TOKENIZER).read_text() == "tokenizer"


def test_the_config_is_written_last(tmp_path):
    def full_disk(_path):
        raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(InputError, match=f"{tmp_path} cannot be written: no space left"):
        open_folder(tmp_path, as_json(BASE), DATA_OF_RUN, SimpleNamespace(save=full_disk))
    assert not (tmp_path / CONFIG).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "another config: seed was 0, now 1"),
        ({"model": RoFormerConfig(rope_theta=500.0)}, r"model.rope_theta was 10000.0, now 500.0"),
        ({"data": CorpusConfig(path="new")}, "data.path was '', now 'new'"),
        ({"training": TrainingConfig(steps=5)}, "training.steps was None, now 5"),
        ({"init_from": "other"}, "init_from was None, now 'other'"),
    ],
)
def test_a_run_is_not_continued_under_another_config(run, change, message):
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.name != LOCK}
    config = as_json(dataclasses.replace(BASE, **change))
    for refuse in (
        lambda: check_folder(run, config),
        lambda: open_folder(run, config, DATA_OF_RUN, TOKENIZER_OF_RUN),
    ):
        with pytest.raises(InputError, match=f"{run} holds a run of .*{message}; choose another --run-dir, or start"):
            refuse()
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.name != LOCK} == before


def test_a_run_is_not_continued_as_another_kind(run):
    with pytest.raises(InputError, match=r"was .*, now"):
        check_folder(run, as_json(Glue(run_dir="run")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DATA_OF_RUN | {"train": "4567"}, "another data: train was '0123', now '4567'"),
        (DATA_OF_RUN | {"label_names": ["b", "a"]}, r"label_names was \['a', 'b'\], now \['b', 'a'\]"),
    ],
)
def test_a_run_is_not_continued_on_other_data(run, data, message):
    with pytest.raises(InputError, match=message):
        open_folder(run, as_json(BASE), data, TOKENIZER_OF_RUN)


def test_every_differing_field_is_named(run):
    changed = dataclasses.replace(BASE, seed=1, training=TrainingConfig(steps=5))
    with pytest.raises(InputError, match=r"seed was 0, now 1; training.steps was None, now 5; choose"):
        check_folder(run, as_json(changed))
    with pytest.raises(
        InputError, match="another data: tokenizer was None, now 'abc'; train was '0123', now '4'; choose"
    ):
        check_data(run, DATA_OF_RUN | {"train": "4", "tokenizer": "abc"})


HOLDER = """
import sys
from pathlib import Path
from roformer_jax.run_folder import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_which_another_process_trains_is_refused_until_that_one_is_gone(run):
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"locked\n"
        for refuse in (lambda: check_folder(run, as_json(BASE)), locked(run).__enter__):
            with pytest.raises(InputError, match=f"{run} is in use by process {holder.pid} on .*; wait for its end"):
                refuse()
        holder.kill()
    assert check_folder(run, as_json(BASE))
    with locked(run):
        assert read_json(run / CONFIG)["seed"] == 0


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--run-dir .*file/run cannot be written: Not a directory"):
        locked(tmp_path / "file" / "run").__enter__()


def test_a_run_may_go_on_elsewhere_and_on_other_devices(run):
    moved = dataclasses.replace(BASE, run_dir="elsewhere", cache_dir="other", mesh=MeshConfig(data=2, fsdp=4))
    assert check_folder(run, as_json(moved))
    open_folder(run, as_json(moved), DATA_OF_RUN, TOKENIZER_OF_RUN)
    assert from_json(Pretraining, read_json(run / CONFIG)) == BASE, "the first start is what stays on record"


def test_a_missing_or_empty_folder_is_a_new_run(tmp_path):
    assert not check_folder(tmp_path / "missing", as_json(BASE))
    assert not check_folder(tmp_path, as_json(BASE))
    assert not list(tmp_path.iterdir())


def test_foreign_folders_and_files_are_refused_untouched(tmp_path):
    (tmp_path / "photo.jpg").write_text("precious")
    with pytest.raises(InputError, match=r"is not empty and holds no run \(config.json is missing\)"):
        check_folder(tmp_path, as_json(BASE))
    with pytest.raises(InputError, match=r"photo.jpg is a file, not a folder"):
        check_folder(tmp_path / "photo.jpg", as_json(BASE))
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]
    assert (tmp_path / "photo.jpg").read_text() == "precious"


def test_a_failed_write_leaves_the_old_json(tmp_path):
    path = tmp_path / "data.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"a": ', "is not valid JSON"), (b"\xff", "is not valid JSON"), (b"[1]", "holds a list")]
)
def test_damaged_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(InputError, match=rf"{CONFIG} {message}.*the run is damaged"):
        read_json(tmp_path / CONFIG)


def test_what_is_no_run_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "missing", tmp_path, tmp_path / "file"):
        with pytest.raises(InputError, match=f"{folder} is not a run: {CONFIG} is missing"):
            read_json(folder / CONFIG)


def test_flat_names_are_dotted():
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [2]}) == {"a.b": 1, "a.c.d": None, "e": [2]}
