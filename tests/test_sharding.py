from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from roformer_jax.commands.parsing import load_config
from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig, build_masked_lm
from roformer_jax.sharding import (
    AXES,
    RULES,
    MeshConfig,
    gathered,
    laid_out,
    like,
    make_mesh,
    parameter_shardings,
    parts,
    place_batch,
    share_of_rows,
)
from tests.golden.shardings import CONFIGS, MESH, TABLES, table_of


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(fsdp=2))


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(fsdp=4), (2, 4, 1, 1)),
        (MeshConfig(data=1, fsdp=8), (1, 8, 1, 1)),
        (MeshConfig(fsdp=2, tensor=2, sequence=2), (1, 2, 2, 2)),
        (MeshConfig(data=2, sequence=4), (2, 1, 1, 4)),
    ],
)
def test_mesh_covers_all_devices(config, sizes):
    mesh = make_mesh(config)
    assert dict(mesh.shape) == dict(zip(("data", "fsdp", "tensor", "sequence"), sizes, strict=True))
    assert mesh.size == jax.device_count()


@pytest.mark.parametrize("fields", [{"data": 3}, {"fsdp": 3}, {"tensor": 16}, {"sequence": 7}])
def test_sizes_that_do_not_cover_the_devices_are_refused(fields):
    (axis, size), *_ = fields.items()
    with pytest.raises(InputError, match=rf"{axis}={size}.* does not cover the 8 devices"):
        make_mesh(MeshConfig(**fields))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parameters_of_every_shipped_config_lie_as_the_golden_table_says(name):
    """The table is read by people: `python -m tests.golden.shardings` writes it anew."""
    found = table_of(load_config(CONFIGS[name]).problem().model, make_mesh(MESH))
    assert found == (TABLES / f"{name}.txt").read_text(encoding="utf-8")


def test_two_axes_of_one_array_cannot_share_a_mesh_axis(mesh):
    with pytest.raises(ValueError, match=r"\('heads', 'mlp'\) of one array would be split over the same mesh axis"):
        RULES.spec(("heads", "mlp"), mesh)


def test_a_parameter_that_its_mesh_axis_does_not_divide_is_refused(mesh):
    shapes = {"up": {"kernel": jax.ShapeDtypeStruct((3, 7, 8), jnp.float32)}}
    with pytest.raises(ValueError, match=r"up/kernel of shape \(3, 7, 8\) cannot be split as .*fsdp"):
        parameter_shardings(mesh, shapes, {"up": {"kernel": ("embed", "mlp")}})


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"fsdp": 8}, r"mesh.fsdp = 8 does not divide model.hidden_size = 20"),
        ({"tensor": 4}, r"mesh.tensor = 4 does not divide model.intermediate_size = 18"),
        (
            {"tensor": 2, "sequence": 4},
            r"mesh.tensor x mesh.sequence = 8 does not divide model.num_attention_heads = 4",
        ),
        ({"sequence": 4}, r"mesh.tensor x mesh.sequence = 4 does not divide the tokens of a row = 10"),
    ],
)
def test_a_mesh_that_does_not_divide_the_model_is_refused_by_field(axes, message):
    config = RoFormerConfig(hidden_size=20, position_encoding="none", num_attention_heads=4, intermediate_size=18)
    with pytest.raises(InputError, match=message):
        config.check_mesh(make_mesh(MeshConfig(**axes)).shape, 10)


def test_the_layers_of_a_deep_and_narrow_model_are_not_split(mesh):
    """Each of them is larger than any other axis of some bias; a scan could not walk along a split one."""
    config = RoFormerConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=16, num_attention_heads=2, intermediate_size=8
    )
    model = build_masked_lm(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    blocks = jax.tree.leaves(parameter_shardings(mesh, shapes, model.axes)["encoder"]["blocks"])
    assert all(not sharding.spec or sharding.spec[0] is None for sharding in blocks)
    assert any("fsdp" in sharding.spec for sharding in blocks)


@pytest.mark.parametrize("rows", [1, 6, 8, 9])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("axes", [{"fsdp": 2}, {"tensor": 4}])
def test_batches_are_split_over_the_devices_and_filled_with_empty_rows(axes, rows, whole):
    mesh = make_mesh(MeshConfig(**axes))
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = {
        "ids": np.arange(2 * rows * 5, dtype=np.int32).reshape(2, rows, 5) + 1,
        "weights": np.ones((2, rows), np.float32),
    }
    placed = place_batch(batch, mesh, whole=whole)
    filled = -(-rows // groups) * groups
    for name, array in placed.items():
        assert array.shape == (2, filled, *batch[name].shape[2:])
        assert array.dtype == batch[name].dtype
        np.testing.assert_array_equal(np.asarray(array)[:, :rows], batch[name])
        assert not np.asarray(array)[:, rows:].any()
        assert {shard.data.shape[1] for shard in array.addressable_shards} == {filled // groups}
    with jax.set_mesh(mesh):
        assert tuple(jax.typeof(placed["ids"]).sharding.spec)[:2] == (None, ("data", "fsdp"))


@dataclass(frozen=True)
class Device:
    """What `share_of_rows` asks of a device."""

    process_index: int


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((8, 1, 1, 1), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 2, 2, 1), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((2, 1, 4, 1), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 1, 2, 4), [(0, 1)] * 4),
    ],
)
def test_processes_that_hold_the_same_rows_read_the_same_share(monkeypatch, sizes, expected):
    """Four processes of two devices each."""

    mesh = Mesh(np.array([Device(i // 2) for i in range(8)]).reshape(sizes), AXES)
    found = []
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(share_of_rows(mesh))
    assert found == expected


def test_gathered_parameters_are_whole_and_their_gradients_split_again(mesh):
    rng = np.random.default_rng(0)
    kernel, rows = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(1, 8, 4)).astype(np.float32)

    def loss(kernel, rows):
        whole = gathered(kernel)
        assert whole is kernel or not any(jax.typeof(whole).sharding.spec)
        return jnp.sum(jnp.sin(rows @ whole))

    expected = jax.grad(loss)(kernel, rows[0])
    with jax.set_mesh(mesh):
        split = jax.device_put(kernel, PartitionSpec(None, "fsdp"))
        gradient = jax.jit(jax.grad(loss))(split, place_batch({"rows": rows}, mesh)["rows"][0])
        assert jax.typeof(gradient).sharding.spec == jax.typeof(split).sharding.spec
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=8 * 4 * float(jnp.finfo(jnp.float32).eps))


def test_gathering_leaves_heads_where_they_are():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        kernel = jax.device_put(jnp.zeros((4, 6)), NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
        assert tuple(jax.typeof(gathered(kernel)).sharding.spec) == (None, "tensor")


def test_tokens_and_heads_change_places_and_the_batch_stays():
    x = jnp.arange(8 * 4 * 4.0).reshape(8, 4, 4)
    assert laid_out(x, "length", None) is x
    assert parts("predictions") == 1
    mesh = make_mesh(MeshConfig(tensor=2, sequence=2))
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
        tokens = laid_out(placed, "length", "heads")
        heads = laid_out(tokens, None, "heads_of_whole_rows")
        assert tuple(jax.typeof(tokens).sharding.spec) == (("data", "fsdp"), "sequence", "tensor")
        assert tuple(jax.typeof(heads).sharding.spec) == (("data", "fsdp"), None, ("tensor", "sequence"))
        np.testing.assert_array_equal(heads, x)
        assert parts("predictions") == 4


def test_like_is_the_sharding_with_axes_behind_and_nothing_without_a_mesh(mesh):
    assert like(jnp.zeros((8, 3)), extra_axes=1) is None
    with jax.set_mesh(mesh):
        ids = place_batch({"ids": np.zeros((1, 8, 3), np.int32)}, mesh)["ids"]
        found = like(ids, extra_axes=1)
        assert tuple(found.spec) == (None, ("data", "fsdp"), None, None)
