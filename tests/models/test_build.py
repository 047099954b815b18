import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax.models import RoFormerConfig, build_classifier, build_masked_lm
from roformer_jax.sharding import MeshConfig, make_mesh, parameter_shardings
from roformer_jax.training.optimizer import decay_mask

WIDTH, LAYERS, ROWS, VOCAB = 32, 3, 24, 200
SIZES = dict(
    vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=ROWS,
)  # fmt: skip


def shapes(**fields):
    """Dotted name -> ShapeDtypeStruct."""
    model = build_masked_lm(RoFormerConfig(**SIZES | fields))
    return named(jax.eval_shape(model.init, jax.random.key(0)))


def named(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


@pytest.fixture(scope="module")
def model():
    return build_masked_lm(RoFormerConfig(**SIZES))


@pytest.fixture(scope="module")
def params(model):
    return jax.jit(model.init)(jax.random.key(0))


def test_encodings_without_a_table_have_the_same_parameters_and_learned_adds_one():
    plain = shapes(position_encoding="none")
    for encoding in ("rope", "sinusoidal"):
        assert shapes(position_encoding=encoding) == plain
    learned = shapes(position_encoding="learned")
    table = learned.pop("encoder.embeddings.position.embedding")
    assert learned == plain
    assert table.shape == (ROWS, WIDTH)


def test_output_embedding_is_the_token_embedding():
    with_vocabulary = {name for name, leaf in shapes().items() if VOCAB in leaf.shape}
    assert with_vocabulary == {"encoder.embeddings.token.embedding", "head.bias"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_are_plain_dicts_of_float32_arrays(dtype):
    found = jax.eval_shape(build_classifier(RoFormerConfig(**SIZES, dtype=dtype), 3).init, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))

    def kinds(tree):
        return {type(tree)} | {kind for child in tree.values() if isinstance(child, dict) for kind in kinds(child)}

    assert kinds(found) == {dict}


def test_weight_decay_is_decided_for_every_parameter(params):
    decayed = {name.rsplit(".", 1)[1] for name, decays in named(decay_mask(params)).items() if decays}
    assert decayed == {"kernel", "embedding"}


def test_kernels_and_embeddings_are_normal_with_the_initializer_range(params):
    for name, leaf in named(params).items():
        if name.endswith(("kernel", "embedding")):
            assert abs(float(leaf.std()) - 0.02) < 5 * 0.02 / math.sqrt(2 * leaf.size), name
            assert abs(float(leaf.mean())) < 5 * 0.02 / math.sqrt(leaf.size), name
            assert float(jnp.abs(leaf).max()) > 2.1 * 0.02, f"{name} looks truncated"


def test_biases_start_at_zero_and_scales_at_one(params):
    found = {name: leaf for name, leaf in named(params).items() if not name.endswith(("kernel", "embedding"))}
    assert {name.rsplit(".", 1)[1] for name in found} == {"bias", "scale"}
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, float(name.endswith("scale")), err_msg=name)


def test_layers_and_tables_are_drawn_independently(params):
    kernels = params["encoder"]["blocks"]["up"]["kernel"]
    draws = [*kernels, params["head"]["dense"]["kernel"], params["encoder"]["embeddings"]["token"]["embedding"][:WIDTH]]
    corners = {float(draw[0, 0]) for draw in draws}
    assert len(corners) == len(draws) == LAYERS + 2


def test_parameters_are_a_function_of_the_key_and_not_of_the_mesh(model, params):
    mesh = make_mesh(MeshConfig(fsdp=4))
    with jax.set_mesh(mesh):
        shardings = parameter_shardings(mesh, jax.eval_shape(model.init, jax.random.key(0)), model.axes)
        sharded = jax.jit(model.init, out_shardings=shardings)
        born_sharded, other = sharded(jax.random.key(0)), sharded(jax.random.key(1))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(born_sharded))
    # Draws are the same bits; the normal's inverse error function may be fused differently, by a rounding or two.
    eps = float(jnp.finfo(jnp.float32).eps)
    chex.assert_trees_all_close(jax.device_get(born_sharded), jax.device_get(params), rtol=8 * eps)
    token = [tree["encoder"]["embeddings"]["token"]["embedding"] for tree in (born_sharded, other)]
    assert not np.array_equal(*token)
