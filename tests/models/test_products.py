"""A kernel's gradient is multiplied as matrices on CPUs, and is the same by whatever shapes and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from roformer_jax.models.products import product
from roformer_jax.sharding import MeshConfig, make_mesh

RNG = np.random.default_rng(0)
BATCH, LENGTH, CONTRACTED, NEW = 8, 6, (4, 3), (5, 2)


def gradients_of(form, x, kernel):
    """Of the sum of squares of the product."""
    return jax.jit(jax.grad(lambda x, kernel: jnp.sum(form(x, kernel) ** 2), argnums=(0, 1)))(x, kernel)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("new", [1, 2])
def test_product_and_gradients_are_those_of_tensordot(axes, new):
    x = RNG.normal(size=(BATCH, LENGTH, *CONTRACTED[:axes]))
    kernel = RNG.normal(size=(*CONTRACTED[:axes], *NEW[:new]))
    inputs = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    expected = np.tensordot(x, kernel, axes)
    eps = float(jnp.finfo(jnp.float32).eps)

    def bound(terms, *factors):  # each of so many terms is rounded twice or three times, and so are their sums
        return 4 * terms * eps * np.prod([np.abs(factor).max() for factor in factors]) * terms

    inner, tokens, outer = x[0, 0].size, BATCH * LENGTH, expected[0, 0].size
    found = product(*inputs, axes, jnp.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound(inner, x, kernel))
    dx, dkernel = gradients_of(lambda x, kernel: product(x, kernel, axes, jnp.float32), *inputs)
    last = [*range(2, 2 + new)]
    expected_dx = np.tensordot(2 * expected, kernel, (last, [*range(axes, axes + new)]))
    expected_dkernel = np.tensordot(x, 2 * expected, ([0, 1], [0, 1]))
    np.testing.assert_allclose(dx, expected_dx, rtol=0, atol=bound(outer, 2 * expected, kernel))
    np.testing.assert_allclose(dkernel, expected_dkernel, rtol=0, atol=bound(tokens, x, 2 * expected))


def test_bfloat16_is_summed_in_float32_and_its_gradients_are_bfloat16():
    x = jnp.asarray(RNG.normal(size=(BATCH, LENGTH, 4)), jnp.bfloat16)
    kernel = jnp.asarray(RNG.normal(size=(4, 3)), jnp.bfloat16)
    found = product(x, kernel, 1, jnp.float32)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    # Products of bfloat16 numbers are exact in float32, so only the sums of four are rounded.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * float(jnp.finfo(jnp.float32).eps) * 4 * 4 * 4)
    assert found.dtype == jnp.float32
    assert [gradient.dtype for gradient in gradients_of(lambda *xs: product(*xs, 1, jnp.float32), x, kernel)] == [
        jnp.bfloat16
    ] * 2


def test_a_cpu_writes_no_transpose_for_the_gradient_of_a_kernel():
    """As it does for the product that keeps batch and length apart."""
    x, kernel = jnp.ones((BATCH, LENGTH, 48)), jnp.ones((48, 64))

    def transposes(form):
        gradient = jax.jit(jax.grad(lambda kernel: jnp.sum(form(x, kernel) ** 2)))
        return gradient.lower(kernel).compile().as_text().count(" transpose(")

    assert transposes(lambda x, kernel: product(x, kernel, 1, jnp.float32)) == 0
    assert transposes(lambda x, kernel: jnp.einsum("blm,mf->blf", x, kernel)) > 0


@pytest.mark.parametrize(
    ("mesh", "spec_x", "spec_kernel"),
    [
        ({"data": 8}, ("data",), ()),
        ({"data": 2, "sequence": 2, "tensor": 2}, ("data", "sequence"), (None, "tensor")),
        ({"data": 4, "tensor": 2}, ("data", None, "tensor"), ("tensor",)),
    ],
    ids=["data", "new", "contracted"],
)
def test_gradients_are_the_same_whatever_axes_lie_on_several_devices(mesh, spec_x, spec_kernel):
    x, kernel = (jnp.asarray(RNG.integers(-4, 5, shape), jnp.float32) for shape in ((BATCH, LENGTH, 4), (4, 6)))
    expected = gradients_of(lambda x, kernel: jnp.einsum("blm,mf->blf", x, kernel), x, kernel)
    mesh = make_mesh(MeshConfig(**mesh))
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
            for array, spec in ((x, spec_x), (kernel, spec_kernel))
        ]
        summed = spec_kernel[:1] == ("tensor",)  # over devices: then the product must be told where it lies
        out = NamedSharding(mesh, PartitionSpec("data")) if summed else None
        found = gradients_of(lambda x, kernel: product(x, kernel, 1, jnp.float32, out), *placed)
    jax.tree.map(np.testing.assert_array_equal, found, expected)  # small whole numbers: exact
