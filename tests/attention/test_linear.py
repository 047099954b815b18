"""Linear attention is equations 18 and 19 summed pair by pair, at a linear cost: chunked, sharded, step by step."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from roformer_jax import rope
from roformer_jax.attention import LinearState, favor_projection, linear_attention, linear_attention_step
from roformer_jax.sharding import MeshConfig, make_mesh

EPS = float(np.finfo(np.float32).eps)
BATCH, LENGTH, HEADS, HEAD_DIM, VALUE_DIM, FAVOR = 8, 16, 4, 8, 6, 12
SEGMENT_IDS = np.array(
    [[1] * 5 + [2] * 2 + [3] + [4] * 6 + [0] * 2, [0] * 3 + [7] * 13, [1] * 16, [0] * 16] * 2, np.int32
)
MAPS = ("elu", "relu", "softmax", "favor")
ROTATES = ("none", "before", "after")
STATIC = ("layout", "feature_map", "rotate", "causal", "chunk")

attend = jax.jit(linear_attention, static_argnames=STATIC)
step = jax.jit(linear_attention_step, static_argnames=("layout", "feature_map", "rotate", "chunk"))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def queries_keys_values(kv_heads=HEADS, key_length=LENGTH, length=LENGTH, batch=BATCH):
    kv_shape = (batch, key_length, kv_heads)
    return normal(0, batch, length, HEADS, HEAD_DIM), normal(1, *kv_shape, HEAD_DIM), normal(2, *kv_shape, VALUE_DIM)


def weights_of(feature_map, rotate, positions=None):
    """The keyword arguments of the kind of attention."""
    positions = jnp.arange(LENGTH) if positions is None else positions
    features = FAVOR if (feature_map, rotate) == ("favor", "after") else HEAD_DIM
    table = None if rotate == "none" else rope.rotation(positions, rope.frequencies(features))
    projection = favor_projection(jax.random.key(3), HEAD_DIM, FAVOR) if feature_map == "favor" else None
    arguments = {"rotation": table, "layout": "interleaved", "feature_map": feature_map, "projection": projection}
    return arguments | {"rotate": "after" if rotate == "none" else rotate}


def numpy_features(x, feature_map, projection, query):
    """[..., D] -> [..., F], with the exponentials of a query or of all keys of the array over their largest."""
    match feature_map:
        case "elu":
            return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
        case "relu":
            return np.maximum(x, 0)
        case "softmax":
            exponents = x
        case "favor":
            scaled = x / HEAD_DIM**0.25
            exponents = scaled @ np.asarray(projection, np.float64).T - (scaled**2).sum(-1, keepdims=True) / 2
    features = np.exp(exponents - exponents.max(axis=-1 if query else None, keepdims=True))
    return features / features.sum(-1, keepdims=True) if feature_map == "softmax" and query else features


def numpy_rotated(x, table):
    """Equation 12: each pair is a complex number, turned by that of its position."""
    turn = np.asarray(table.cos, np.float64) + 1j * np.asarray(table.sin, np.float64)
    z = (x[..., ::2] + 1j * x[..., 1::2]) * turn[..., None, :]
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def brute_force(q, k, v, *, rotation, feature_map, projection, rotate, causal=False, segment_ids=None, layout=None):
    """Equation 18 or 19 in float64 from all pairs, and a bound of the rounding of the same sums in float32."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    if rotation is not None and rotate == "before":
        q, k = numpy_rotated(q, rotation), numpy_rotated(k, rotation)
    phi, varphi = (numpy_features(x, feature_map, projection, query) for x, query in ((q, True), (k, False)))
    visible = np.ones((q.shape[0], 1, q.shape[1], k.shape[1]), bool)
    if causal:
        visible &= np.tri(q.shape[1], dtype=bool)
    if segment_ids is not None:
        visible &= ((segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] != 0))[:, None]
    below = np.einsum("blhf,bshf->bhls", phi, varphi) * visible
    above = below
    if rotation is not None and rotate == "after":
        above = np.einsum("blhf,bshf->bhls", numpy_rotated(phi, rotation), numpy_rotated(varphi, rotation)) * visible
    denominator = below.sum(-1)
    safe = np.where(denominator > 0, denominator, np.inf)
    out = np.einsum("bhls,bshd->blhd", above / safe[..., None], v)
    # A rotation mixes two channels, so that a rounding error is of the size of the norms, not of the products.
    norms = np.einsum("blh,bsh->bhls", *(np.linalg.norm(x, axis=-1) for x in (phi, varphi))) * visible
    size = (norms.sum(-1) / safe).max(initial=0.0) * np.abs(v).max()
    exponents = np.abs(q).max() ** 2 * np.sqrt(HEAD_DIM)  # of random features; their relative error is EPS times that
    operations = HEAD_DIM + q.shape[1] + (4 * exponents if feature_map == "favor" else 8)
    return out, operations * EPS * size


@pytest.mark.parametrize("rotate", ROTATES)
@pytest.mark.parametrize("feature_map", MAPS)
def test_attention_is_the_sum_over_visible_pairs(feature_map, rotate):
    q, k, v = queries_keys_values()
    weights = weights_of(feature_map, rotate)
    for causal, segment_ids in ((False, None), (False, SEGMENT_IDS), (True, SEGMENT_IDS)):
        out = attend(q, k, v, **weights, causal=causal, segment_ids=segment_ids, chunk=5)
        expected, rounding = brute_force(q, k, v, **weights, causal=causal, segment_ids=segment_ids)
        np.testing.assert_allclose(out, expected, rtol=0, atol=rounding)
        if feature_map in ("elu", "softmax"):  # others have small denominators, which magnify rounding
            np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_a_key_head_serves_consecutive_query_heads(kv_heads, causal):
    q, k, v = queries_keys_values(kv_heads)
    weights = weights_of("elu", "after")
    expected, rounding = brute_force(q, k, v, **weights, causal=causal)
    np.testing.assert_allclose(attend(q, k, v, **weights, causal=causal), expected, rtol=0, atol=rounding)


def test_cross_attention_takes_keys_of_another_length():
    q, k, v = queries_keys_values(key_length=5)
    weights = weights_of("softmax", "none")
    expected, rounding = brute_force(q, k, v, **weights)
    np.testing.assert_allclose(attend(q, k, v, **weights), expected, rtol=0, atol=rounding)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (15, 1), (15, 4), (15, 5), (15, 64)])
@pytest.mark.parametrize("causal", [False, True])
def test_any_length_and_chunk_give_the_same(length, chunk, causal):
    q, k, v = (x[:, :length] for x in queries_keys_values())
    arguments = weights_of("elu", "after", jnp.arange(length)) | {"causal": causal}
    arguments["segment_ids"] = None if causal else SEGMENT_IDS[:, :length]
    expected, rounding = brute_force(q, k, v, **arguments)
    np.testing.assert_allclose(attend(q, k, v, **arguments, chunk=chunk), expected, rtol=0, atol=rounding)


def test_the_layout_decides_which_channels_turn():
    q, k, v = queries_keys_values()
    weights = weights_of("elu", "after")
    convert = np.arange(HEAD_DIM).reshape(-1, 2).T.ravel()  # channels 0, 2, .., 1, 3, ..: pairs to halves
    halves = attend(q[..., convert], k[..., convert], v, **weights | {"layout": "half"})
    expected, rounding = brute_force(q, k, v, **weights)
    np.testing.assert_allclose(halves, expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("rotate", ROTATES)
def test_weights_sum_to_one_unless_the_numerator_alone_is_rotated(rotate):
    q, k, v = queries_keys_values()
    out = np.asarray(attend(q, k, jnp.ones_like(v), **weights_of("elu", rotate), causal=True))
    if rotate == "after":
        np.testing.assert_allclose(out[:, 0], 1, rtol=0, atol=4 * HEAD_DIM * EPS)  # alone, at distance 0
        assert (np.abs(out[:, 1:] - 1) > 0.01).mean() > 0.9
    else:
        np.testing.assert_allclose(out, 1, rtol=0, atol=4 * HEAD_DIM * EPS)


@pytest.mark.parametrize("rotate", ["before", "after"])
def test_only_rotation_after_the_map_makes_attention_relative(rotate):
    q, k, v = queries_keys_values()
    near, far = (
        np.asarray(attend(q, k, v, **weights_of("elu", rotate, jnp.arange(LENGTH) + shift), causal=True))
        for shift in (0, 1 << 20)
    )
    _, rounding = brute_force(q, k, v, **weights_of("elu", rotate), causal=True)
    assert (np.abs(near - far).max() < 2 * rounding) == (rotate == "after")


def quadratic(q, k, v, *, rotation, feature_map, projection, rotate, layout, mask):
    """The same in JAX, for its gradients by plain differentiation; features as in equation 18."""
    if rotation is not None and rotate == "before":
        q, k = rope.rotate_qk(q, k, rotation, layout=layout)
    match feature_map:
        case "elu":
            phi, varphi = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
        case "softmax":
            phi, varphi = jax.nn.softmax(q, -1), jnp.exp(k)
        case "favor":
            phi, varphi = (
                jnp.exp(x / HEAD_DIM**0.25 @ projection.astype(x.dtype).T - (x * x).sum(-1, keepdims=True) / 8**0.5 / 2)
                for x in (q, k)
            )
    below = jnp.einsum("blhf,bshf->bhls", phi, varphi) * mask
    if rotation is None or rotate == "before":
        above = below
    else:
        above = jnp.einsum("blhf,bshf->bhls", *rope.rotate_qk(phi, varphi, rotation, layout=layout)) * mask
    total = below.sum(-1, keepdims=True)
    return jnp.einsum("bhls,bshd->blhd", above / jnp.where(total > 0, total, 1), v)


@pytest.mark.parametrize(
    ("feature_map", "rotate", "causal", "segmented"),
    [
        ("elu", "after", True, True),
        ("elu", "after", False, True),
        ("elu", "before", True, False),
        ("softmax", "after", True, False),
        ("favor", "after", False, True),
        ("favor", "before", False, False),
    ],
)
def test_gradients_are_those_of_the_pairs_and_of_finite_differences(feature_map, rotate, causal, segmented):
    with jax.enable_x64(True):
        q, k, v, g = (x[:4].astype(jnp.float64) for x in (*queries_keys_values(), queries_keys_values()[0][..., :6]))
        ids = SEGMENT_IDS[:4] if segmented else np.ones((4, LENGTH), np.int32)
        mask = (ids[:, :, None] == ids[:, None, :]) & (ids[:, None, :] != 0)
        mask = (mask & np.tri(LENGTH, dtype=bool) if causal else mask)[:, None].astype(np.float64)
        weights = weights_of(feature_map, rotate, jnp.arange(LENGTH, dtype=jnp.int32))
        linear = partial(
            linear_attention, **weights, causal=causal, segment_ids=jnp.asarray(ids) if segmented else None, chunk=5
        )

        def loss(attention, *qkv):
            return jnp.sum(attention(*qkv) * g)

        actual = jax.jit(jax.grad(partial(loss, linear), argnums=(0, 1, 2)))(q, k, v)
        expected = jax.jit(jax.grad(partial(loss, partial(quadratic, **weights, mask=mask)), argnums=(0, 1, 2)))(
            q, k, v
        )
        scale = max(float(jnp.abs(gradient).max()) for gradient in expected)
        chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-12 * scale)  # some 1,000 roundings of 1e-16
        value, h = jax.jit(partial(loss, linear)), 1e-5
        for index, gradient in enumerate(actual):
            direction = normal(7 + index, *gradient.shape).astype(jnp.float64)
            ends = [
                [x + sign * h * direction if i == index else x for i, x in enumerate((q, k, v))] for sign in (1, -1)
            ]
            slope = (value(*ends[0]) - value(*ends[1])) / (2 * h)
            # h^2 times a third derivative, and the rounding of the values over h.
            np.testing.assert_allclose(slope, jnp.sum(gradient * direction), rtol=1e-7, atol=1e-7 * scale)


def test_gradients_have_gradients():
    with jax.enable_x64(True):
        q, k, v = (x[:1, :, :1].astype(jnp.float64) for x in queries_keys_values())
        mask = np.tri(LENGTH)[None, None]
        weights = weights_of("elu", "after", jnp.arange(LENGTH, dtype=jnp.int32))
        forms = partial(linear_attention, **weights, causal=True, chunk=5), partial(quadratic, **weights, mask=mask)
        second = []
        for form in forms:
            squared = jax.grad(lambda q, form=form: jnp.sum(form(q, k, v) ** 2))
            second.append(jax.jit(jax.grad(lambda q, squared=squared: jnp.sum(squared(q) ** 2)))(q))
        np.testing.assert_allclose(*second, rtol=0, atol=1e-11 * float(jnp.abs(second[1]).max()))


@pytest.mark.parametrize("causal", [False, True])
def test_packed_documents_attend_as_they_do_alone(causal):
    q, k, v = queries_keys_values()
    positions = rope.packed_positions(jnp.asarray(SEGMENT_IDS))
    packed = attend(q, k, v, **weights_of("elu", "after", positions), segment_ids=SEGMENT_IDS, causal=causal, chunk=4)
    for document in (slice(0, 5), slice(5, 7), slice(7, 8), slice(8, 14)):
        alone = [x[:1, document] for x in (q, k, v)]
        weights = weights_of("elu", "after", jnp.arange(alone[0].shape[1]))
        expected, rounding = brute_force(*alone, **weights, causal=causal)
        np.testing.assert_allclose(packed[:1, document], expected, rtol=0, atol=rounding)


@pytest.mark.parametrize("feature_map", ["elu", "softmax", "favor"])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_exactly_zero_and_reaches_nobody(feature_map, causal):
    weights = weights_of(feature_map, "after")
    padding, segment_ids = (SEGMENT_IDS == 0)[..., None, None], jnp.asarray(SEGMENT_IDS)

    @jax.jit
    def value_and_gradients(q, k, v):
        attention = partial(linear_attention, **weights, segment_ids=segment_ids, causal=causal, chunk=5)
        out, pullback = jax.vjp(attention, q, k, v)
        return out, *pullback(jnp.ones_like(out))

    arrays = queries_keys_values()
    clean = value_and_gradients(*arrays)
    chex.assert_tree_all_finite(clean)
    for array in clean:
        assert not np.asarray(array)[np.broadcast_to(padding, array.shape)].any()
    spoiled = value_and_gradients(*(jnp.where(padding, 1e6, x) for x in arrays))
    chex.assert_trees_all_equal(spoiled, clean)


def test_no_common_channel_is_exactly_zero_with_finite_gradients():
    q, k, v = queries_keys_values()
    q = -jnp.abs(q)
    for rotate in ROTATES:
        attention = partial(attend, **weights_of("relu", rotate) | {"rotate": "after"}, causal=True)
        out, pullback = jax.vjp(attention, q, k, v)
        assert not np.asarray(out).any()
        chex.assert_tree_all_finite(pullback(jnp.ones_like(out)))


@pytest.mark.parametrize("shift", [-1000.0, -70.0, 0.0, 70.0, 1000.0])
@pytest.mark.parametrize("causal", [False, True])
def test_exponentials_of_any_size_are_safe(shift, causal):
    """A constant in all keys multiplies every exp(k) alike: neither the result nor a gradient may change."""
    q, k, v = queries_keys_values()
    k = jnp.round(k * 64) / 64  # exact after the shift

    @jax.jit
    def value_and_gradients(q, k, v):
        out, pullback = jax.vjp(partial(linear_attention, feature_map="softmax", causal=causal), q, k, v)
        return out, *pullback(jnp.ones_like(out))

    expected = value_and_gradients(q, k, v)
    _, rounding = brute_force(q, k, v, **weights_of("softmax", "none"), causal=causal)
    actual = value_and_gradients(q, k + shift, v)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=LENGTH * rounding)


@pytest.mark.parametrize(
    ("feature_map", "rotate"),
    [("elu", "after"), ("relu", "before"), ("softmax", "none"), ("favor", "after"), ("favor", "before")],
)
def test_steps_are_the_parallel_form(feature_map, rotate):
    """A prompt right-padded to 9 of up to 9 tokens, then one token at a time, continued at each row's own position."""
    q, k, v = queries_keys_values(kv_heads=2)
    prompt, lengths = 9, np.array([9, 4, 1, 0, 9, 4, 1, 7])
    valid = np.arange(prompt) < lengths[:, None]
    padded = [jnp.where(valid[..., None, None], x[:, :prompt], 3e2) for x in (q, k, v)]
    parallel = attend(q, k, v, **weights_of(feature_map, rotate), causal=True)
    _, rounding = brute_force(q, k, v, **weights_of(feature_map, rotate), causal=True)

    out, state = step(*padded, **weights_of(feature_map, rotate, jnp.arange(prompt)), valid=valid, chunk=4)
    np.testing.assert_allclose(
        out, jnp.where(valid[..., None, None], parallel[:, :prompt], 0), rtol=0, atol=2 * rounding
    )
    first = state
    for n in range(LENGTH):
        m = np.minimum(lengths + n, LENGTH - 1)[:, None]
        token = [jnp.take_along_axis(x, m[..., None, None], axis=1) for x in (q, k, v)]
        here = (lengths + n < LENGTH)[:, None]
        out, state = step(*token, **weights_of(feature_map, rotate, jnp.asarray(m)), state=state, valid=here)
        expected = jnp.take_along_axis(parallel, m[..., None, None], axis=1)
        np.testing.assert_allclose(out, jnp.where(here[..., None, None], expected, 0), rtol=0, atol=2 * rounding)
        chex.assert_trees_all_equal_shapes_and_dtypes(first, state)


def test_a_state_takes_larger_keys_than_it_began_with():
    q, k, v = queries_keys_values()
    k = k + jnp.linspace(-200.0, 200.0, 5)[np.arange(LENGTH) // 4][:, None, None][None]
    attention = partial(step, feature_map="softmax")
    expected, rounding = brute_force(q[:, -1:], k, v, **weights_of("softmax", "none"))
    state = None
    for n in range(LENGTH):
        out, state = attention(*(x[:, n : n + 1] for x in (q, k, v)), state=state)
        chex.assert_tree_all_finite((out, state))
    np.testing.assert_allclose(out, expected, rtol=0, atol=400 * rounding)  # exponents of up to 200, each rounded


def test_the_state_is_of_constant_size_in_float32():
    q, k, v = (x.astype(jnp.bfloat16) for x in queries_keys_values(kv_heads=2))
    _, state = step(q, k, v, **weights_of("elu", "after"))
    assert isinstance(state, LinearState)
    chex.assert_shape(state.sums, (BATCH, 2, HEAD_DIM, VALUE_DIM + 1))
    chex.assert_type(jax.tree.leaves(state), jnp.float32)


@pytest.mark.parametrize("rotate", ["before", "after"])
def test_bfloat16_stays_bfloat16_with_float32_sums(rotate):
    q, k, v = (x.astype(jnp.bfloat16) for x in queries_keys_values())
    weights = weights_of("elu", rotate)
    out = attend(q, k, v, **weights, causal=True)
    assert out.dtype == jnp.bfloat16
    expected, rounding = brute_force(*(x.astype(jnp.float32) for x in (q, k, v)), **weights, causal=True)
    half_step = float(jnp.finfo(jnp.bfloat16).eps) / 2
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=half_step, atol=rounding)
    loss = jax.grad(lambda *qkv: attend(*qkv, **weights).astype(jnp.float32).sum(), argnums=(0, 1, 2))
    chex.assert_type(loss(q, k, v), jnp.bfloat16)


def packed_value_and_gradients(causal, axis_name=None):
    def function(q, k, v, segment_ids, table):
        attention = partial(linear_attention, layout="half", causal=causal, chunk=3, axis_name=axis_name)
        out, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, table, segment_ids=segment_ids), q, k, v)
        return out, *pullback(out)

    return function


def packed_arguments(kv_heads=2):
    ids = jnp.asarray(SEGMENT_IDS)
    return *queries_keys_values(kv_heads), ids, rope.rotation(rope.packed_positions(ids), rope.frequencies(HEAD_DIM))


def closeness(arguments):
    """A gradient sums over LENGTH queries of HEADS / 2 heads; the same sums in another order."""
    weights = {"rotation": arguments[4], "feature_map": "elu", "projection": None, "rotate": "before"}
    _, rounding = brute_force(*arguments[:3], **weights, segment_ids=SEGMENT_IDS)
    return LENGTH * HEADS * rounding


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("mesh", "spec"),
    [
        (
            lambda: jax.make_mesh((4, 2), ("data", "heads"), axis_types=(AxisType.Explicit,) * 2),
            ("data", None, "heads"),
        ),
        (lambda: make_mesh(MeshConfig(fsdp=2)), (("data", "fsdp"),)),
    ],
    ids=["batch and heads", "training mesh"],
)
def test_an_explicit_mesh_changes_no_number_and_keeps_the_sharding(mesh, spec, causal):
    function, arguments = jax.jit(packed_value_and_gradients(causal)), packed_arguments()
    expected = function(*arguments)
    rows, arrays = PartitionSpec(spec[0]), PartitionSpec(*spec)
    with jax.set_mesh(mesh()):
        on_mesh = jax.device_put(arguments, (arrays, arrays, arrays, rows, rope.Rotation(rows, rows)))
        actual = function(*on_mesh)
        for leaf, like in zip(actual, (on_mesh[0], *on_mesh[:3]), strict=True):
            assert jax.typeof(leaf).sharding == jax.typeof(like).sharding
    chex.assert_trees_all_close(jax.device_get(actual), expected, rtol=0, atol=closeness(arguments))


@pytest.mark.parametrize("causal", [False, True])
def test_heads_lie_on_the_devices_that_have_them(causal):
    """Under plain `jit` the compiler moves nothing: attention of a head needs no other."""
    function, arguments = jax.jit(packed_value_and_gradients(causal)), packed_arguments(HEADS)
    mesh = jax.make_mesh((4,), ("heads",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    arrays, whole = NamedSharding(mesh, PartitionSpec(None, None, "heads")), NamedSharding(mesh, PartitionSpec())
    on_mesh = jax.device_put(arguments, (arrays, arrays, arrays, whole, rope.Rotation(whole, whole)))
    compiled = function.lower(*on_mesh).compile()
    assert not {"all-gather", "all-reduce", "all-to-all"} & set(compiled.as_text().replace("(", " ").split())
    chex.assert_trees_all_close(
        jax.device_get(compiled(*on_mesh)), function(*arguments), rtol=0, atol=closeness(arguments)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_sequence_over_shards_is_one_sequence(causal, packed):
    """Four shards of four tokens: a segment covers one, two, or all of them, or starts and ends inside."""
    arguments = packed_arguments()
    if not packed:
        arguments = (*arguments[:3], None, arguments[4])
    expected = jax.jit(packed_value_and_gradients(causal))(*arguments)
    mesh = jax.make_mesh((2, 4), ("data", "sequence"), axis_types=(AxisType.Auto,) * 2)
    spec = PartitionSpec("data", "sequence")
    function = jax.shard_map(packed_value_and_gradients(causal, "sequence"), mesh=mesh, in_specs=spec, out_specs=spec)
    chex.assert_trees_all_close(
        jax.device_get(jax.jit(function)(*arguments)), expected, rtol=0, atol=closeness(arguments)
    )


def test_shards_agree_on_the_scale_of_exponentials():
    q, k, v = queries_keys_values()
    k += jnp.repeat(jnp.array([100.0, -100.0, 0.0, 150.0]), 4)[None, :, None, None]
    expected, rounding = brute_force(q, k, v, **weights_of("softmax", "none"))
    mesh = jax.make_mesh((4,), ("sequence",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    spec = PartitionSpec(None, "sequence")
    attention = partial(linear_attention, feature_map="softmax", axis_name="sequence")
    out = jax.jit(jax.shard_map(attention, mesh=mesh, in_specs=spec, out_specs=spec))(q, k, v)
    np.testing.assert_allclose(out, expected, rtol=0, atol=150 * rounding)


@pytest.mark.parametrize("batch", [1, 8])
def test_one_row_keeps_its_sharding(batch):
    q, k, v = (x[:batch] for x in queries_keys_values(2))
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1])):
        on_mesh = jax.device_put((q, k, v), PartitionSpec("data"))
        for chunk in (5, 64):
            out = jax.eval_shape(partial(linear_attention, causal=True, chunk=chunk), *on_mesh)
            assert out.sharding == jax.typeof(on_mesh[0]).sharding


@pytest.mark.parametrize(
    ("form", "rotate"), [("causal", "after"), ("causal", "before"), ("packed", "after"), ("dense", "after")]
)
def test_memory_is_linear_forward_and_backward(form, rotate):
    """And not quadratic: four times the tokens take four times the memory, with a twentieth for what is rounded up."""

    def bytes_at(length):
        q, k, v = (jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32) for _ in range(3))
        ids = jnp.ones((1, length), jnp.int32) if form == "packed" else None
        table = rope.rotation(jnp.arange(length), rope.frequencies(16))
        arguments = {"layout": "half", "rotate": rotate, "causal": form == "causal", "segment_ids": ids}
        loss = jax.grad(lambda *qkv: linear_attention(*qkv, table, **arguments).sum(), argnums=(0, 1, 2))
        return jax.jit(loss).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    short = bytes_at(2048)
    assert short < 40 * 2048 * 2 * 16 * 4  # arrays of the size of the queries
    assert bytes_at(8192) < 4 * 1.05 * short


@pytest.mark.parametrize(
    ("sizes", "arguments", "message"),
    [
        ({"kv_heads": 3}, {}, "4 query heads cannot share 3 key-value heads"),
        ({"key_length": 5}, {"causal": True}, "self-attention, but there are 16 queries and 5 keys"),
        ({"key_length": 5}, {"segment_ids": jnp.asarray(SEGMENT_IDS)}, "there are 16 queries and 5 keys"),
        ({"key_length": 5}, weights_of("elu", "after"), "there are 16 queries and 5 keys"),
        ({}, {"chunk": 0}, "chunk must be at least 1 token, got 0"),
        ({}, {"rotate": "both"}, "unknown rotate 'both'; there are after, before"),
        ({}, weights_of("elu", "after") | {"layout": None}, "a rotation needs a layout"),
        ({}, {"feature_map": "gelu"}, "unknown feature map 'gelu'; there are elu, relu, softmax, favor"),
        ({}, {"feature_map": jax.nn.gelu}, "must be non-negative.* gelu falls to -0.17"),
        ({}, {"feature_map": "favor"}, "needs a projection"),
        ({}, weights_of("favor", "none") | {"feature_map": "elu"}, "no other map takes one"),
        (
            {},
            weights_of("favor", "none") | {"rotation": weights_of("elu", "after")["rotation"]},
            r"rotates the 12 features, but the rotation has 4 pairs: make it with frequencies\(12\)",
        ),
        ({}, weights_of("elu", "after", jnp.arange(3)), r"positions of shape \(3,\)"),
    ],
)
def test_what_cannot_be_attended_is_refused(sizes, arguments, message):
    with pytest.raises(ValueError, match=message):
        linear_attention(*queries_keys_values(**sizes), **arguments)
    if "key_length" not in sizes:
        with pytest.raises(ValueError, match=message):
            linear_attention_step(*queries_keys_values(**sizes), **arguments)
