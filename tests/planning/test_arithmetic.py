import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from roformer_jax.planning.arithmetic import matmul_flops

A = jnp.ones((8, 16))
B = jnp.ones((16, 16))
PRODUCT = 2 * 8 * 16 * 16


def flops(function, *arguments):
    return matmul_flops(jax.make_jaxpr(function)(*arguments))


def test_a_product_is_two_flops_for_each_multiplication():
    assert flops(lambda a, b: jax.nn.gelu(a @ b), A, B) == PRODUCT
    assert (
        flops(lambda a, b: jnp.einsum("zij,zjk->zik", a, b), jnp.ones((3, 8, 16)), jnp.ones((3, 16, 16))) == 3 * PRODUCT
    )


def test_a_gradient_is_two_products_more_and_recomputation_one():
    def loss(b, block):
        return jnp.sum(block(A, b) ** 2)

    def block(a, b):
        return jnp.sin(a @ b) @ b  # the gradient needs what the first product gave

    plain = flops(jax.value_and_grad(lambda b: loss(b, block)), B)
    again = flops(jax.value_and_grad(lambda b: loss(b, jax.checkpoint(block))), B)
    assert plain == (2 + 3) * PRODUCT  # A itself has no gradient
    assert again >= plain + PRODUCT


def test_a_scan_counts_all_its_turns_and_a_choice_its_costliest_branch():
    assert flops(lambda a, b: jax.lax.scan(lambda a, _: (a @ b, None), a, length=7)[0], A, B) == 7 * PRODUCT
    assert flops(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a), A, B) == 2 * PRODUCT


def test_a_loop_over_data_counts_as_the_loop_around_it():
    def inner(a, b):
        return jax.lax.fori_loop(0, a[0, 0].astype(int), lambda _, a: a @ b, a)

    assert flops(inner, A, B) == PRODUCT
    assert flops(lambda a, b: jax.lax.scan(lambda a, _: (inner(a, b), None), a, length=5)[0], A, B) == 25 * PRODUCT


def test_every_device_of_a_shard_map_counts():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spread = jax.shard_map(lambda a, b: a @ b, in_specs=(jax.P("x"), jax.P()), out_specs=jax.P("x"))
        assert flops(jax.jit(spread), jax.device_put(A, jax.P("x")), jax.device_put(B, jax.P())) == PRODUCT
