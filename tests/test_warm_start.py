import dataclasses
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from roformer_jax.errors import DamagedError, InputError
from roformer_jax.finetuning import Classification, Glue
from roformer_jax.interop.huggingface import read_checkpoint
from roformer_jax.models import RoFormerConfig, build_classifier, build_masked_lm
from roformer_jax.pretraining import Pretraining
from roformer_jax.run_folder import CHECKPOINTS, CONFIG, as_json, read_json, write_json
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings
from roformer_jax.training import checkpoint
from roformer_jax.training.checkpoint import Checkpoints
from roformer_jax.training.state import create_state
from roformer_jax.warm_start import architecture_of, start_from
from tests.models.parameters import random_params

GOLDEN = Path(__file__).parent / "golden" / "checkpoints"
MODEL = RoFormerConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    hidden_dropout_prob=0.3, rope_theta=500.0, max_position_embeddings=9,
)  # fmt: skip


def write_run(folder, kind, model):
    """A run with a checkpoint, as an experiment leaves it; its parameters."""
    params = random_params(model)
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:
        checkpoints.save(3, create_state(params, optax.sgd(1.0)))
    write_json(folder / CONFIG, as_json(kind(run_dir=str(folder), model=MODEL)))
    return params


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    return folder, write_run(folder, Pretraining, build_masked_lm(MODEL))


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    return folder, write_run(folder, Classification, build_classifier(MODEL, 3))


def fresh(model):
    """Parameters on the device that no run holds."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) + 1, random_params(model))


def test_the_encoder_of_a_pretrained_run_is_loaded_and_the_head_is_new(pretrained):
    run, saved = pretrained
    given = fresh(build_classifier(MODEL, 3))
    params, report = start_from(str(run), "Classification", "classifier", given)
    chex.assert_trees_all_equal(jax.device_get(params["encoder"]), saved["encoder"])
    chex.assert_trees_all_equal(params["head"], given["head"])

    def size(*trees):
        return f"{sum(leaf.size for leaf in jax.tree.leaves(trees)):,} in {len(jax.tree.leaves(trees))} arrays"

    lines = [line.split(maxsplit=1) for line in report.splitlines()[1:]]
    assert report.splitlines()[0] == f"parameters from {run}:"
    assert lines == [
        ["loaded", f"{size(saved['encoder'])}: encoder.blocks, encoder.embeddings"],
        ["new", f"{size(given['head'])}: head.dense, head.output"],
        ["unused", f"{size(saved['head'])}: head.bias, head.dense, head.norm"],
    ]


def test_everything_is_loaded_from_a_run_of_the_same_kind(finetuned):
    run, saved = finetuned
    params, report = start_from(str(run), "Classification", "classifier", fresh(build_classifier(MODEL, 3)))
    chex.assert_trees_all_equal(jax.device_get(params), saved)
    assert report.count(" none") == 2  # nothing new, nothing unused


@pytest.mark.parametrize(("kind", "outputs"), [("Glue", 3), ("Classification", 2)])
def test_the_head_is_new_as_a_whole_for_another_kind_or_number_of_classes(finetuned, kind, outputs):
    run, saved = finetuned
    given = fresh(build_classifier(MODEL, outputs))
    params, _ = start_from(str(run), kind, "classifier", given)
    chex.assert_trees_all_equal(jax.device_get(params["encoder"]), saved["encoder"])
    chex.assert_trees_all_equal(params["head"], given["head"])


def test_loaded_parameters_lie_where_the_new_ones_lay(pretrained):
    run, saved = pretrained
    model, mesh = build_masked_lm(MODEL), make_mesh(MeshConfig(fsdp=4))
    with jax.set_mesh(mesh):
        shardings = parameter_shardings(mesh, jax.eval_shape(model.init, jax.random.key(0)), model.axes)
        given = jax.device_put(fresh(model), shardings)
        params, _ = start_from(str(run), "Pretraining", "masked_lm", given)
    chex.assert_trees_all_equal(jax.device_get(params), saved)
    for found, expected in zip(jax.tree.leaves(params), jax.tree.leaves(given), strict=True):
        assert found.sharding == expected.sharding


def test_an_encoder_of_another_shape_is_refused_by_name(pretrained):
    wider = build_masked_lm(dataclasses.replace(MODEL, intermediate_size=25))
    with pytest.raises(InputError, match=r"encoder.blocks.down.kernel has shape \(2, 24, 16\), .* needs \(2, 25, 16\)"):
        start_from(str(pretrained[0]), "Pretraining", "masked_lm", fresh(wider))


def test_architecture_is_the_run_s_and_rates_and_precision_are_the_new_one_s(pretrained):
    wanted = RoFormerConfig(
        hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.2, initializer_range=0.01, dtype="bfloat16",
        remat="full", classifier_pooling="mean", position_encoding="learned", unroll=2,
    )  # fmt: skip
    expected = dataclasses.replace(
        MODEL, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.2, initializer_range=0.01, dtype="bfloat16",
        remat="full", classifier_pooling="mean", unroll=2,
    )  # fmt: skip
    assert architecture_of(str(pretrained[0]), wanted, "keep") == expected


def test_an_experiment_takes_the_architecture_of_the_run_it_starts_from(pretrained):
    started = Glue(run_dir="new", init_from=str(pretrained[0]), model=RoFormerConfig(hidden_dropout_prob=0.0))
    assert started.resolved().model == dataclasses.replace(MODEL, hidden_dropout_prob=0.0)
    assert dataclasses.replace(started, init_from=None).resolved().model == started.model


def test_a_config_of_another_version_is_refused_by_field(tmp_path):
    config = as_json(Pretraining(run_dir="run", model=MODEL))
    del config["model"]["rope_theta"]
    write_json(tmp_path / CONFIG, config)
    with pytest.raises(InputError, match=r"lacks model.rope_theta: another version wrote it"):
        architecture_of(str(tmp_path), MODEL, "keep")
    write_json(tmp_path / CONFIG, {})
    with pytest.raises(InputError, match=r"lacks model\.\w+: another version wrote it"):
        architecture_of(str(tmp_path), MODEL, "keep")


def test_a_missing_run_is_refused(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(InputError, match=f"{missing}: no such file or folder"):
        architecture_of(str(missing), MODEL, "keep")
    with pytest.raises(InputError, match=f"{missing}: no such file or folder"):
        start_from(str(missing), "Pretraining", "masked_lm", {})


def remove(run):
    shutil.rmtree(run / CHECKPOINTS / "3" / "params")


def garble(run):
    (run / CHECKPOINTS / "3" / "params" / "_METADATA").write_text("{")


@pytest.mark.parametrize("damage", [remove, garble])
def test_a_damaged_checkpoint_is_refused_by_name(pretrained, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(pretrained[0], run)
    damage(run)
    with pytest.raises(DamagedError, match=r"no checkpoint in .*run/checkpoints holds what was saved.*\n  step 3: \w"):
        start_from(str(run), "Pretraining", "masked_lm", fresh(build_masked_lm(MODEL)))
    assert read_json(run / CONFIG)["experiment"] == "Pretraining"


def test_weights_that_are_not_finite_are_refused_by_name(pretrained, tmp_path, monkeypatch):
    """Our own runs save none: the check of the save is taken out to make some."""
    run, saved = pretrained
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns(CHECKPOINTS))
    saved["encoder"]["embeddings"]["norm"]["scale"][3] = np.nan
    record_of = checkpoint.record_of
    monkeypatch.setattr(checkpoint, "record_of", lambda items: (record_of(items)[0], []))
    with Checkpoints(tmp_path / "run" / CHECKPOINTS) as checkpoints:
        checkpoints.save_last(3, create_state(saved, optax.sgd(1.0)))
    with pytest.raises(InputError, match=r"encoder.embeddings.norm.scale holds a NaN or an infinity"):
        start_from(str(tmp_path / "run"), "Pretraining", "masked_lm", fresh(build_masked_lm(MODEL)))


def test_positions_are_swapped_where_the_experiment_says_so_and_nothing_else_changes(pretrained):
    kept = architecture_of(str(pretrained[0]), MODEL, "keep")
    swapped = architecture_of(str(pretrained[0]), MODEL, "alibi")
    assert swapped == dataclasses.replace(kept, position_encoding="alibi")


def test_a_swap_of_nothing_is_refused():
    with pytest.raises(InputError, match="init_positions = rope replaces the positions of init_from, which is not set"):
        Pretraining(run_dir="new", init_positions="rope").resolved()


def test_a_hugging_face_checkpoint_gives_its_encoder_head_and_architecture():
    folder = str(GOLDEN / "bert_masked_lm")
    config = architecture_of(folder, RoFormerConfig(hidden_dropout_prob=0.0), "rope")
    assert (config.hidden_size, config.position_encoding, config.hidden_dropout_prob) == (8, "rope", 0.0)
    params, report = start_from(folder, "Pretraining", "masked_lm", fresh(build_masked_lm(config)))
    saved = read_checkpoint(GOLDEN / "bert_masked_lm").params
    del saved["encoder"]["embeddings"]["position"]
    chex.assert_trees_all_equal(jax.device_get(params), saved)
    assert "unused  144 in 1 arrays: encoder.embeddings" in report


def test_tensors_that_no_model_here_has_are_told():
    folder = str(GOLDEN / "bert_pretraining")
    config = architecture_of(folder, RoFormerConfig(), "keep")
    _, report = start_from(folder, "Classification", "classifier", fresh(build_classifier(config, 2)))
    assert "left out, for no model here has them: bert.pooler.dense.bias, " in report
