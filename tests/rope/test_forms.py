"""All forms of the rotation are one map; the platform decides which is compiled."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from roformer_jax import rope
from roformer_jax.rope import forms
from roformer_jax.rope.layouts import read_and_written

LAYOUTS = ("interleaved", "half", "interleaved_to_half", "half_to_interleaved")
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
LENGTH, HEADS = 6, 3


def example(pairs, dtype):
    draw = np.random.default_rng(0).normal(size=(2, LENGTH, HEADS, 2 * pairs))
    return jnp.asarray(draw, dtype), rope.rotation(jnp.arange(LENGTH), rope.frequencies(2 * pairs))


def agree(x, rotated, expected):
    """Two products and a sum per channel, fused or not, differ by one rounding of each product and of the result."""
    eps = float(jnp.finfo(x.dtype).eps)
    scale = float(jnp.abs(x.astype(jnp.float32)).max())
    difference = jnp.abs(rotated.astype(jnp.float32) - expected.astype(jnp.float32))
    assert rotated.dtype == x.dtype
    assert float(difference.max()) <= 2 * scale * eps


@every_layout
@pytest.mark.parametrize("implementation", [None, "matmul"])
@pytest.mark.parametrize(
    ("dtype", "pairs"), [("float32", 1), ("float32", 24), ("float16", 8), ("bfloat16", 8), ("bfloat16", 64)]
)
def test_every_form_is_the_map_of_the_stacked_one(layout, implementation, dtype, pairs):
    x, table = example(pairs, dtype)
    expected = rope.rotate(x, table, layout=layout, implementation="stack")
    agree(x, rope.rotate(x, table, layout=layout, implementation=implementation), expected)


@every_layout
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_exchange_by_a_matrix_rounds_nothing(layout, dtype):
    x, _ = example(8, dtype)
    by_nothing, by_a_quarter = (jnp.full((1, 1, 1, 8), value, jnp.float32) for value in (1, 0))
    for cos, sin in ((by_nothing, by_a_quarter), (by_a_quarter, by_nothing)):
        stacked, exchanged = (form(x, cos, sin, *read_and_written(layout)) for form in (forms.stack, forms.matmul))
        np.testing.assert_array_equal(exchanged, stacked)


@pytest.fixture(params=[1, 8])
def devices(request, monkeypatch):
    """On one device the default may cut any axis of 16-bit channels."""
    monkeypatch.setattr(jax, "device_count", lambda: request.param)


def by_default(layout):
    """The form chosen, without a memory of choices made for another number of devices."""
    source, target = read_and_written(layout)
    return jax.jit(lambda x, cos, sin: forms.rotate_pairs(x, cos, sin, source, target, None))


def aligned(table):
    return tuple(part[None, :, None] for part in table)


@every_layout
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.usefixtures("devices", "optimized")
def test_on_a_cpu_the_default_is_one_fusion_without_a_choice_left_in_it(layout, dtype):
    x, table = example(64, dtype)
    compiled = by_default(layout).lower(x, *aligned(table)).compile().as_text()
    entry = compiled[compiled.index("ENTRY") :]
    assert "conditional" not in compiled
    assert entry.count(" fusion(") == 1


@every_layout
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.usefixtures("devices", "optimized")
def test_on_a_cpu_the_default_is_the_stacked_map_and_a_vector_alone_gets_the_same_bits(layout, dtype):
    x, table = example(64, dtype)
    rotate, tables = by_default(layout), aligned(table)
    rotated = rotate(x, *tables)
    agree(x, rotated, forms.stack(x, *tables, *read_and_written(layout)))
    for at in range(LENGTH):
        token = tuple(part[:, at : at + 1] for part in tables)
        alone = rotate(x[:1, at : at + 1, :1], *token)
        np.testing.assert_array_equal(alone, rotated[:1, at : at + 1, :1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.usefixtures("devices", "optimized")
def test_no_form_for_a_cpu_mixes_one_pair_with_another(dtype):
    x, table = example(64, dtype)
    broken = x.at[0, 2, 1, 6].set(jnp.nan).at[1, 0, 0, 0].set(jnp.inf)
    rotated = by_default("interleaved")(broken, *aligned(table))
    expected = forms.stack(broken, *aligned(table), "interleaved", "interleaved")
    agree(x, jnp.nan_to_num(rotated, posinf=1), jnp.nan_to_num(expected, posinf=1))
    assert int(jnp.isnan(rotated).sum()) == int(jnp.isnan(expected).sum())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("devices")
def test_a_program_for_any_batch_and_length_is_the_same_map(dtype):
    x, table = example(8, dtype)
    tables, rotate = aligned(table), by_default("interleaved")
    shapes = jax.export.symbolic_args_specs((x, *tables), ("b, l, ...", "1, l, ...", "1, l, ..."))
    exported = jax.export.export(rotate)(*shapes)
    np.testing.assert_array_equal(exported.call(x, *tables), rotate(x, *tables))


@pytest.mark.parametrize("implementation", [None, "matmul", "pallas"])
def test_every_form_has_the_gradient_of_the_stacked_one(implementation):
    x, table = example(8, "float32")

    def gradient(implementation):
        def loss(x):
            return (rope.rotate(x, table, layout="interleaved_to_half", implementation=implementation) ** 3).sum()

        return jax.grad(lambda x: (jax.grad(loss)(x) ** 2).sum())(x)

    expected = gradient("stack")
    tolerance = 64 * float(jnp.finfo(jnp.float32).eps) * float(jnp.abs(expected).max())  # eight rotations and products
    np.testing.assert_allclose(gradient(implementation), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
@pytest.mark.parametrize("implementation", [None, "matmul"])
def test_forms_keep_the_sharding_of_their_input(kind, implementation):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    x, table = example(8, "float32")
    expected = rope.rotate(x, table, layout="half", implementation="stack")
    rows = jax.device_put(x, jax.NamedSharding(mesh, PartitionSpec("data")))
    table = jax.device_put(table, jax.NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        rotate = jax.jit(rope.rotate, static_argnames=("layout", "implementation"))
        rotated = rotate(rows, table, layout="half", implementation=implementation)
    assert rotated.sharding.is_equivalent_to(rows.sharding, rows.ndim)
    agree(x, jax.device_get(rotated), expected)
