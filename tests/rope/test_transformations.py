"""Every function of arrays works under jit, vmap, scan, shard_map and grad, and is traced once for all values."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jax.test_util import check_grads

from roformer_jax import rope

EPS = float(np.finfo(np.float32).eps)
ROWS, LENGTH, HEADS, HEAD_DIM = 8, 6, 2, 16
FREQS = jnp.asarray(rope.frequencies(HEAD_DIM), jnp.float32)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def spread(low, high):
    """One value for each row."""
    return jnp.linspace(low, high, ROWS, dtype=jnp.float32)


X = normal(0, ROWS, LENGTH, HEADS, HEAD_DIM)
ANGLES = normal(1, ROWS, LENGTH, HEAD_DIM // 2)
POSITIONS = jnp.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
SEGMENTS = jnp.array([[1, 1, 2, 2, 2, 0]] * ROWS)
FACTORS, THETAS, LONGER = spread(1.5, 32), spread(1e3, 1e6), spread(5e3, 1e5)

# name -> (function of the arrays of one row, those arrays for all rows)
CASES = {
    "frequencies": (lambda theta: rope.frequencies(HEAD_DIM, theta), (THETAS,)),
    "scale_linear": (lambda factor: rope.scale_linear(FREQS, factor), (FACTORS,)),
    "scale_ntk": (lambda factor: rope.scale_ntk(FREQS, factor), (FACTORS,)),
    "scale_dynamic_ntk": (
        lambda factor, length: rope.scale_dynamic_ntk(FREQS, factor, length=length, original_length=4096),
        (FACTORS, LONGER),
    ),
    "scale_yarn": (lambda factor: rope.scale_yarn(FREQS, factor, original_length=4096), (FACTORS,)),
    "scale_llama3": (lambda factor: rope.scale_llama3(FREQS, factor, original_length=8192), (FACTORS,)),
    "scale_longrope": (
        lambda long, length: rope.scale_longrope(FREQS, [1.0] * 8, long, length=length, original_length=32_768),
        (1 + jnp.abs(normal(2, ROWS, HEAD_DIM // 2)), LONGER),
    ),
    "yarn_gain": (rope.yarn_gain, (FACTORS,)),
    "longrope_gain": (lambda factor: rope.longrope_gain(factor, 4096), (FACTORS,)),
    "rotation": (
        lambda p, freqs, gain: rope.rotation(p, freqs, gain=gain),
        (POSITIONS, normal(4, ROWS, HEAD_DIM // 2), FACTORS),
    ),
    "rotation, float32": (
        lambda p, freqs: rope.rotation(p, freqs, exact=False),
        (POSITIONS / (ROWS * LENGTH), normal(3, ROWS, HEAD_DIM // 2)),
    ),
    "rotation_from_angles": (lambda a, m: rope.rotation_from_angles(a, log_modulus=m), (ANGLES, -ANGLES)),
    "xpos_rotation": (lambda positions: rope.xpos_rotation(positions, rope.frequencies(HEAD_DIM)), (POSITIONS,)),
    "composition": (lambda a, b: rope.Rotation(a, b) @ rope.Rotation(b, a).inverse().conj(), (ANGLES, 1 + ANGLES**2)),
    "rotate": (
        lambda x, a: rope.rotate(x, rope.rotation_from_angles(a), layout="interleaved_to_half"),
        (X, ANGLES),
    ),
    "rotate_qk": (
        lambda q, k, a: rope.rotate_qk(q, k, rope.rotation_from_angles(a[:, :4]), layout="half", start=-8, blocks=2),
        (X, X[:, :, :1], ANGLES),
    ),
    "packed_positions": (rope.packed_positions, (SEGMENTS,)),
    "padded_positions": (rope.padded_positions, (SEGMENTS[:, ::-1] > 0,)),
    "decode_positions": (lambda cached: rope.decode_positions(cached, 3), (POSITIONS[:, 0],)),
    "positions_from_lengths": (lambda n: rope.positions_from_lengths(n, total=13), (jnp.array([[4, 2, 7]] * ROWS),)),
    "positions_from_cu_seqlens": (
        lambda cu_seqlens: rope.positions_from_cu_seqlens(cu_seqlens, total=13),
        (jnp.array([[0, 4, 6, 13]] * ROWS),),
    ),
    "per_axis": (
        lambda theta: rope.per_axis(rope.frequencies(HEAD_DIM, theta), rope.contiguous_sections((2, 3, 3))),
        (THETAS,),
    ),
    "axial_frequencies": (lambda theta: rope.axial_frequencies(*[rope.frequencies(8, theta)] * 2), (THETAS,)),
    "mixed_frequencies": (
        lambda key: rope.mixed_frequencies(key, HEAD_DIM, HEADS),
        (jax.random.split(jax.random.key(0), ROWS),),
    ),
    "convert_layout": (
        lambda kernel: rope.convert_layout(kernel, "half", "interleaved", num_heads=HEADS),
        (X.reshape(ROWS, LENGTH, -1),),
    ),
}
EXACT = {"rotation", "mixed_frequencies"}  # integer phases; a key
DIFFERENTIABLE = [
    name
    for name, (_, arguments) in CASES.items()
    if name not in EXACT and all(jnp.issubdtype(argument.dtype, jnp.floating) for argument in arguments)
]


def one_row(tree, row):
    return jax.tree.map(lambda array: array[row], tree)


def under_scan(function):
    return lambda *arrays: jax.lax.scan(lambda _, row: (None, function(*row)), None, arrays)[1]


def under_shard_map(function):
    def of_one_device(*arrays):
        return jax.tree.map(lambda array: array[None], function(*one_row(arrays, 0)))

    rows = PartitionSpec("rows")
    mesh = jax.make_mesh((ROWS,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.shard_map(of_one_device, mesh=mesh, in_specs=rows, out_specs=rows)


@pytest.mark.parametrize("name", CASES)
def test_rows_together_give_what_rows_give_alone_with_one_trace_for_all(name):
    function, arguments = CASES[name]
    alone = jax.jit(chex.assert_max_traces(function, n=1))
    expected = jax.tree.map(lambda *rows: np.stack(rows), *[alone(*one_row(arguments, row)) for row in range(ROWS)])
    # The same float32 operations; the compiler may contract them differently: a few roundings of the largest number.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for transformed in (jax.vmap(function), under_scan(function), under_shard_map(function)):
        chex.assert_trees_all_close(jax.jit(transformed)(*arguments), expected, rtol=4 * EPS, atol=8 * EPS * largest)
    chex.assert_trees_all_close(function(*one_row(arguments, 5)), one_row(expected, 5), rtol=0, atol=8 * EPS * largest)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_finite_differences(name):
    function, arguments = CASES[name]
    row = one_row(arguments, 5)

    def of_relative_changes(*changes):
        """Around 0, so that one step suits arguments of any size."""
        return function(*(argument * (1 + change) for argument, change in zip(row, changes, strict=True)))

    # A central difference over 2 * 2^-6: the rounding of values near 1 over the step, and the third derivative.
    step = 2.0**-6
    zeros = tuple(jnp.zeros_like(argument) for argument in row)
    tolerance = 16 * EPS / step + 8 * step**2
    check_grads(of_relative_changes, zeros, order=1, modes=["rev"], atol=tolerance, rtol=tolerance, eps=step)
