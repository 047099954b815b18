"""Tensors become parameters and come out again, for any sizes; where each number goes is written out here by hand."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.interop.configuration import HEADS
from roformer_jax.interop.weights import entries, names_of, to_params, to_tensors
from roformer_jax.models import RoFormerConfig, build


@st.composite
def models(draw):
    """A family, head and configuration."""
    family = draw(st.sampled_from(["roformer", "bert"]))
    head = draw(st.sampled_from(sorted(HEADS) if family == "roformer" else ["encoder", "masked_lm"]))
    heads = draw(st.integers(1, 3))
    width = heads * 2 * draw(st.integers(1, 3))
    fields = {"position_encoding": "learned" if family == "bert" else "rope"}
    if family == "roformer":
        language = head in ("masked_lm", "causal_lm")
        fields["norm_type"] = draw(st.sampled_from(["layer_norm", "rms_norm"]))
        fields["use_bias"] = draw(st.booleans())
        if not (language and fields["norm_type"] == "rms_norm"):
            fields["embedding_size"] = draw(st.none() | st.integers(1, 9))
    model = RoFormerConfig(
        vocab_size=draw(st.integers(1, 9)), hidden_size=width, num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads, intermediate_size=draw(st.integers(1, 9)), type_vocab_size=draw(st.integers(0, 3)),
        tie_word_embeddings=draw(st.booleans()), max_position_embeddings=draw(st.integers(1, 9)), **fields,
    )  # fmt: skip
    return family, head, model


def shapes_of(model, head, outputs=3):
    return jax.eval_shape(build(model, head, outputs).init, jax.random.key(0))


@settings(max_examples=25, deadline=None)
@given(models())
def test_parameters_come_back_from_tensors_bit_for_bit(drawn):
    family, head, model = drawn
    shapes = shapes_of(model, head)
    leaves, structure = jax.tree.flatten(shapes)
    sizes = [leaf.size for leaf in leaves]
    # Every number another: a permutation would be seen.
    pieces = np.split(np.arange(1, sum(sizes) + 1, dtype=np.float32), np.cumsum(sizes)[:-1])
    params = structure.unflatten(piece.reshape(leaf.shape) for piece, leaf in zip(pieces, leaves, strict=True))
    table = list(entries(model, head, family))
    tensors = to_tensors(table, params)
    assert set(tensors) == names_of(table, model.num_hidden_layers)
    assert sorted(np.concatenate([tensor.ravel() for tensor in tensors.values()])) == list(range(1, sum(sizes) + 1))
    again = to_params(table, shapes, tensors, "test")
    assert jax.tree.all(jax.tree.map(np.array_equal, again, params))


def test_queries_keys_and_values_lie_as_the_paper_has_them():
    """Their query.weight[out, in], out = head * head_size + channel, is our kernel[in, 0, head, channel]."""
    model = RoFormerConfig(
        vocab_size=3, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=5
    )
    table = list(entries(model, "encoder", "roformer"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes_of(model, "encoder"))
    tensors = to_tensors(table, params)
    attention = params["encoder"]["blocks"]["attention"]
    for part, name in enumerate(("query", "key", "value")):
        for layer in range(2):
            weight = tensors[f"encoder.layer.{layer}.attention.self.{name}.weight"]
            bias = tensors[f"encoder.layer.{layer}.attention.self.{name}.bias"]
            for head, channel, inside in ((0, 0, 1), (1, 2, 7), (2, 3, 11)):
                kernel = attention["query_key_value"]["kernel"][layer, inside, part, head, channel]
                assert weight[head * 4 + channel, inside] == kernel
                assert bias[head * 4 + channel] == attention["query_key_value"]["bias"][layer, part, head, channel]
    output = tensors["encoder.layer.1.attention.output.dense.weight"]
    assert output[5, 2 * 4 + 3] == attention["output"]["kernel"][1, 2, 3, 5]


def test_half_precision_is_widened_exactly():
    model = RoFormerConfig(vocab_size=3, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=5)
    table = list(entries(model, "encoder", "roformer"))
    shapes = shapes_of(model, "encoder")
    ones = to_tensors(table, jax.tree.map(lambda leaf: np.full(leaf.shape, 1 / 3, np.float32), shapes))
    halves = {name: tensor.astype(np.float16) for name, tensor in ones.items()}
    for leaf in jax.tree.leaves(to_params(table, shapes, halves, "test")):
        assert leaf.dtype == np.float32
        assert np.all(leaf == np.float32(np.float16(1 / 3)))
