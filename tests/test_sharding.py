import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig, build_masked_lm
from roformer_jax.sharding import MeshConfig, gathered, like, make_mesh, parameter_shardings, place_batch


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(fsdp=2))


def specs(fsdp, *shapes):
    leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return [tuple(sharding.spec) for sharding in parameter_shardings(make_mesh(MeshConfig(fsdp=fsdp)), leaves)]


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), {"data": 8, "fsdp": 1}),
        (MeshConfig(fsdp=4), {"data": 2, "fsdp": 4}),
        (MeshConfig(data=1, fsdp=8), {"data": 1, "fsdp": 8}),
    ],
)
def test_mesh_covers_all_devices(config, shape):
    mesh = make_mesh(config)
    assert dict(mesh.shape) == shape
    assert mesh.size == jax.device_count()


@pytest.mark.parametrize("config", [MeshConfig(data=3), MeshConfig(fsdp=3), MeshConfig(fsdp=0), MeshConfig(data=0)])
def test_sizes_that_do_not_cover_the_devices_are_refused(config):
    message = rf"data={config.data} x fsdp={config.fsdp} does not cover the 8 devices"
    with pytest.raises(InputError, match=message):
        make_mesh(config)


def test_the_largest_divisible_axis_of_a_parameter_is_split():
    shapes = [(30522, 768), (12, 768, 3072), (12, 3072, 768), (12, 3, 12, 64), (768,), (7,), ()]
    assert specs(4, *shapes) == [
        (None, "fsdp"), (None, None, "fsdp"), (None, "fsdp", None), (None, None, None, "fsdp"), ("fsdp",), (), (),
    ]  # fmt: skip
    assert specs(1, *shapes) == [()] * len(shapes)


def test_the_layers_of_a_deep_and_narrow_model_are_not_split():
    """Each of them is larger than any other axis of some bias; a scan could not walk along a split one."""
    config = RoFormerConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=16, num_attention_heads=2, intermediate_size=8
    )
    model = build_masked_lm(config)
    mesh = make_mesh(MeshConfig(fsdp=2))
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        shardings = parameter_shardings(mesh, shapes)
        params = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )
        rows = {"ids": np.zeros((1, 8, 8), np.int32), "at": np.zeros((1, 8, 2), np.int32)}
        batch = jax.tree.map(lambda array: array[0], place_batch(rows, mesh))
        logits = jax.eval_shape(model.apply, params, batch["ids"], batch["ids"], batch["at"])
    assert logits.shape == (8, 2, 64)
    blocks = jax.tree.leaves(shardings["encoder"]["blocks"])
    assert all(not sharding.spec or sharding.spec[0] is None for sharding in blocks)
    assert any("fsdp" in sharding.spec for sharding in blocks)


@pytest.mark.parametrize("rows", [1, 6, 8, 9])
@pytest.mark.parametrize("whole", [False, True])
def test_batches_are_split_over_all_devices_and_filled_with_empty_rows(mesh, rows, whole):
    batch = {
        "ids": np.arange(2 * rows * 5, dtype=np.int32).reshape(2, rows, 5) + 1,
        "weights": np.ones((2, rows), np.float32),
    }
    placed = place_batch(batch, mesh, whole=whole)
    filled = -(-rows // 8) * 8
    for name, array in placed.items():
        assert array.shape == (2, filled, *batch[name].shape[2:])
        assert array.dtype == batch[name].dtype
        np.testing.assert_array_equal(np.asarray(array)[:, :rows], batch[name])
        assert not np.asarray(array)[:, rows:].any()
        assert {shard.data.shape[1] for shard in array.addressable_shards} == {filled // 8}
    with jax.set_mesh(mesh):
        assert tuple(jax.typeof(placed["ids"]).sharding.spec)[:2] == (None, ("data", "fsdp"))


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


def test_like_is_the_sharding_with_axes_behind_and_nothing_without_a_mesh(mesh):
    assert like(jnp.zeros((8, 3)), extra_axes=1) is None
    with jax.set_mesh(mesh):
        ids = place_batch({"ids": np.zeros((1, 8, 3), np.int32)}, mesh)["ids"]
        found = like(ids, extra_axes=1)
        assert tuple(found.spec) == (None, ("data", "fsdp"), None, None)
