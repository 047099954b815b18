"""Which implementation of softmax attention is chosen, and what each says that it cannot do."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from roformer_jax.attention import dot_product_attention
from roformer_jax.attention.softmax import LONG, LONG_ON_CPU
from tests.models.jaxprs import equations

BATCH, LENGTH, HEADS, HEAD_DIM = 8, 7, 4, 8


def queries_keys_values(key_length=LENGTH):
    kv = jnp.zeros((BATCH, key_length, HEADS, HEAD_DIM))
    return jnp.zeros((BATCH, LENGTH, HEADS, HEAD_DIM)), kv, kv


def largest_array(length, **arguments):
    """Elements of the largest array of the program that is chosen when nothing is said."""
    q = jax.ShapeDtypeStruct((1, length, 1, HEAD_DIM), jnp.float32)
    program = jax.make_jaxpr(lambda q, k, v: dot_product_attention(q, k, v, **arguments))(q, q, q)
    return max(math.prod(result.aval.shape) for equation in equations(program) for result in equation.outvars)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.1])
def test_long_rows_are_attended_to_block_by_block(dropout_rate):
    dropping = {"dropout_rate": dropout_rate, "dropout_key": jax.random.key(0)}
    assert largest_array(LONG - 1, **dropping) >= (LONG - 1) ** 2
    assert largest_array(2 * LONG, **dropping) < (2 * LONG) ** 2


def test_a_mesh_of_cpus_keeps_the_matrix_of_somewhat_longer_rows():
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1])):
        assert largest_array(LONG_ON_CPU - 1) == (LONG_ON_CPU - 1) ** 2
        assert largest_array(LONG_ON_CPU) < LONG_ON_CPU**2


@pytest.mark.parametrize(
    "arguments",
    [
        {"bias": jnp.zeros((1, 1, LONG, LONG))},
        {"relative_values": jnp.zeros((5, HEAD_DIM))},
        {"query_positions": jnp.arange(LONG)[None], "causal": True},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_what_blocks_cannot_do_is_done_densely(arguments):
    assert largest_array(LONG, **arguments) == LONG**2
    with pytest.raises(
        ValueError, match=f"implementation='blockwise' cannot take {next(iter(arguments))}; 'dense' can"
    ):
        largest_array(LONG, implementation="blockwise", **arguments)


DROPPING = {"dropout_rate": 0.1, "dropout_key": jax.random.key(0)}
PACKED = {"segment_ids": jnp.ones((BATCH, LENGTH), jnp.int32)}


@pytest.mark.parametrize(
    ("sizes", "arguments", "message"),
    [
        ({}, {"implementation": "flash"}, "one of dense, blockwise, splash, cudnn, got 'flash'"),
        ({"key_length": 5}, {"implementation": "blockwise"}, "self-attention, but there are 7 queries and 5 keys"),
        ({}, {"implementation": "splash", **DROPPING}, "'splash' cannot drop probabilities"),
        ({}, {"implementation": "splash"}, "'splash' needs a length that 128 divides, got 7"),
        ({}, {"implementation": "cudnn", **DROPPING}, "'cudnn' cannot drop probabilities"),
        (
            {},
            {"implementation": "cudnn", **PACKED},
            "'cudnn' cannot tell packed",
        ),
        ({}, {"implementation": "cudnn"}, "'cudnn' multiplies bfloat16 or float16, got float32"),
    ],
)
def test_an_implementation_says_what_it_cannot_do(sizes, arguments, message):
    with pytest.raises(ValueError, match=message):
        dot_product_attention(*queries_keys_values(**sizes), **arguments)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="here is one")
def test_cudnn_wants_its_gpu():
    q, k, v = (array.astype(jnp.bfloat16) for array in queries_keys_values())
    with pytest.raises(ValueError, match="'cudnn' runs on NVIDIA GPUs, but this process has cpu"):
        dot_product_attention(q, k, v, implementation="cudnn")


def test_a_kernel_wants_queries_and_keys_split_alike():
    shape, mesh = (8, 128, 4, HEAD_DIM), jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        q, k = (
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(mesh, PartitionSpec("data", *rest)))
            for rest in ((None, "tensor"), ())
        )
        with pytest.raises(ValueError, match="needs queries and keys split alike, along rows and heads alone"):
            jax.eval_shape(partial(dot_product_attention, implementation="splash"), q, k, k)
