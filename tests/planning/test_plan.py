"""Plans for the eight devices of the test process, as if they were a chip that is known."""

import dataclasses
import json

import jax
import pytest

from roformer_jax.errors import InputError
from roformer_jax.hardware import CHIPS
from roformer_jax.models import RoFormerConfig
from roformer_jax.planning import report
from roformer_jax.planning.command import PlanOptions, print_remedy, run_plan
from roformer_jax.planning.plan import make_plan, predicted, remedies, sweep_meshes
from roformer_jax.planning.topology import Slice, open_slice
from roformer_jax.pretraining import Pretraining
from roformer_jax.sharding import MeshConfig
from roformer_jax.tasks.corpus import CorpusConfig
from roformer_jax.training.loop import TrainingConfig

V5E = next(chip for chip in CHIPS if chip.name == "v5e")
PLACE = Slice("v5e:2x4", jax.devices(), V5E, chips=8)
EXPERIMENT = Pretraining(
    run_dir="not written",
    model=RoFormerConfig(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    data=CorpusConfig(length=32),
    mesh=MeshConfig(fsdp=2),
    training=TrainingConfig(batch_size=16, steps=3600),
)
PARAMETERS = 4 * (
    96 * 32 + 2 * 32 + 2 * 32  # tokens, types, norm
    + 3 * (4 * 32 * 32 + 4 * 32 + 2 * 32 * 48 + 48 + 32 + 4 * 32)  # blocks
    + 32 * 32 + 32 + 2 * 32 + 96  # head
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def plan():
    return make_plan(EXPERIMENT, PLACE, price=2.0)


def test_arrays_are_counted_as_they_are_sharded(plan):
    memory = plan.compiled.memory
    assert PARAMETERS / 2 <= memory.parameters <= 0.6 * PARAMETERS  # biases and norms may be whole everywhere
    assert memory.optimizer == pytest.approx(2 * memory.parameters, abs=16)
    assert memory.batch == 2 * (2 * 32 + 3 * 5) * 4  # two rows of a device: ids, segments; three arrays of five masks
    assert memory.peak >= memory.parameters + memory.optimizer + memory.batch + memory.temporaries
    assert plan.fits


def test_the_prediction_is_the_formula(plan):
    step, compiled = plan.prediction, plan.compiled
    sent = sum(traffic.sent for traffic in compiled.traffic.values())
    slower = max(compiled.flops / 197e12, compiled.moved.in_memory / 0.819e12)
    assert step.step == pytest.approx(slower + sent / 9e10)
    assert step.communication_share == pytest.approx(sent / 9e10 / step.step)
    assert plan.tokens_per_second == pytest.approx(16 * 32 / step.step)
    assert step.mfu == pytest.approx(plan.model_flops / step.step / 197e12)
    assert plan.hours == pytest.approx(step.step)  # 3,600 updates
    assert plan.cost == pytest.approx(2.0 * 8 * step.step)


def test_the_program_does_what_the_model_asks_and_little_more(plan):
    assert plan.model_flops <= plan.compiled.flops <= 1.2 * plan.model_flops


def test_gradients_are_summed_over_the_devices(plan):
    sent = {kind: traffic.sent for kind, traffic in plan.compiled.traffic.items()}
    assert sum(sent.values()) >= PARAMETERS / 2  # a ring sends every gradient at least once


def test_text_and_json_say_the_same(plan):
    text, values = report.describe(plan, EXPERIMENT, PLACE), report.as_json(plan, PLACE)
    assert json.loads(json.dumps(values)) == values
    for line in ("parameters", "optimizer state", "peak memory", "model FLOPs", "communication", "MFU", "run"):
        assert f"\n{line} " in text
    assert f"{values['tokens_per_second']:,.0f}" in text
    assert f"cost {values['cost']:,.2f}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_memory_of_the_chip_decides_what_fits(plan):
    place = PLACE._replace(chip=V5E._replace(memory=plan.compiled.memory.peak - 1))
    refused = predicted(plan.compiled, EXPERIMENT, place, price=None, changes="")
    assert not refused.fits and refused.prediction is None
    assert "DOES NOT FIT" in report.describe(refused, EXPERIMENT, place)
    assert "does not fit" in report.row(refused)


def test_remedies_shard_split_and_recompute():
    found = dict(remedies(EXPERIMENT, 8))
    assert list(found) == [
        "--mesh.data 1 --mesh.fsdp 8",
        "--training.microbatches 2",
        "--model.remat full",
        "--mesh.data 1 --mesh.fsdp 8 --training.microbatches 2 --model.remat full",
    ]
    last = [*found.values()][-1]
    assert (last.mesh.fsdp, last.training.microbatches, last.model.remat) == (8, 2, "full")


def test_settings_are_tried_until_one_fits(plan, monkeypatch, capsys):
    tried = []

    def pretend(experiment, place, price, changes):
        tried.append(changes)
        return plan._replace(changes=changes, fits="microbatches" in changes)

    monkeypatch.setattr("roformer_jax.planning.command.make_plan", pretend)
    print_remedy(EXPERIMENT, PLACE, PlanOptions(topology="v5e:2x4"))
    assert tried == ["--mesh.data 1 --mesh.fsdp 8", "--training.microbatches 2"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("with --mesh.data 1 --mesh.fsdp 8: ") and first.endswith("does not fit either")
    assert second.startswith("with --training.microbatches 2: ") and second.endswith("GB, fits")


def test_a_sweep_has_every_mesh_that_divides_heads_rows_and_length():
    meshes = [experiment.mesh for _, experiment in sweep_meshes(EXPERIMENT, 8)]
    assert len(set(meshes)) == len(meshes)
    assert all(mesh.data * mesh.fsdp * mesh.tensor * mesh.sequence == 8 for mesh in meshes)
    assert {mesh.tensor * mesh.sequence for mesh in meshes} == {1, 2, 4}  # four heads
    assert len(meshes) == 4 + 2 * 3 + 3 * 2
    for flags, experiment in sweep_meshes(EXPERIMENT, 8):
        words = flags.split()
        sizes = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        assert sizes == {f"--mesh.{k}": v for k, v in dataclasses.asdict(experiment.mesh).items() if v > 1}


def test_no_mesh_that_divides_is_refused():
    odd = dataclasses.replace(EXPERIMENT, training=TrainingConfig(batch_size=3, steps=1))
    with pytest.raises(InputError, match="no mesh of 7 devices divides 3 rows"):
        sweep_meshes(odd, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topology": "v3:2x2"}, "--topology v3:2x2: not a topology that is known here; they are written v5e:2x4"),
        ({"topology": "v5e"}, "--topology v5e: not a topology"),
        ({"topology": "v5e:2x4", "price": -1.0}, "--price -1.0 must be 0 or more"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        run_plan(EXPERIMENT, PlanOptions(**options))


def test_a_compiler_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(InputError, match="libtpu, which is not installed: pip install --no-deps libtpu"):
        open_slice("v5e:2x4")
    with pytest.raises(InputError, match="pip install --no-deps jax-cuda12-plugin"):
        open_slice("h100:8")


def test_a_config_of_several_experiments_is_refused():
    with pytest.raises(InputError, match="plan takes one experiment"):
        run_plan(object(), PlanOptions(topology="v5e:2x4"))


def test_a_mesh_that_does_not_divide_the_model_is_refused_before_anything_is_compiled():
    mesh = MeshConfig(tensor=8)
    with pytest.raises(InputError, match=r"mesh\.sequence = 8 does not divide model\.num_attention_heads"):
        make_plan(dataclasses.replace(EXPERIMENT, mesh=mesh), PLACE, None)
