"""config.json describes a model and is written from it, one the inverse of the other."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roformer_jax.errors import InputError
from roformer_jax.interop.configuration import HEADS, Description, configuration, described
from roformer_jax.models import RoFormerConfig

PLAIN = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}
rates = st.floats(0, 0.9)


@st.composite
def descriptions(draw):
    """Models that transformers, or JunnyU's package, has."""
    family = draw(st.sampled_from(["roformer", "bert"]))
    head = draw(st.sampled_from(sorted(HEADS) if family == "roformer" else ["encoder", "masked_lm"]))
    heads = draw(st.integers(1, 4))
    width = heads * 2 * draw(st.integers(1, 4))
    fields = {
        "vocab_size": draw(st.integers(1, 100_000)),
        "hidden_size": width,
        "num_hidden_layers": draw(st.integers(1, 48)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(1, 9000)),
        "hidden_act": draw(st.sampled_from(["gelu", "relu"])),
        "hidden_dropout_prob": draw(rates),
        "attention_probs_dropout_prob": draw(rates),
        "type_vocab_size": draw(st.integers(1, 5)),
        "initializer_range": draw(st.floats(1e-6, 1)),
        "layer_norm_eps": draw(st.floats(1e-13, 1e-3)),
        "tie_word_embeddings": draw(st.booleans()),
        "max_position_embeddings": draw(st.integers(1, 5000)),
    }
    if family == "bert":
        return Description(family, head, RoFormerConfig(**fields, position_encoding="learned"), ())
    fields |= {"rotary_value": draw(st.booleans()), "use_bias": draw(st.booleans())}
    fields["norm_type"] = draw(st.sampled_from(["layer_norm", "rms_norm"]))
    embedding = draw(st.integers(1, 40))
    fields["embedding_size"] = None if embedding == width else embedding
    names = st.lists(st.text(max_size=5), min_size=1, max_size=5)
    labels = tuple(draw(names)) if head in ("classifier", "token_classifier") else ()
    return Description(family, head, RoFormerConfig(**fields), labels)


@settings(max_examples=200, deadline=None)
@given(descriptions())
def test_a_description_comes_back(description):
    _, head, model, labels = description
    assert described(configuration(model, head, labels, length=0), "test") == description


@settings(max_examples=50, deadline=None)
@given(descriptions(), st.integers(0, 9000))
def test_transformers_gets_a_table_of_rotations_for_the_longest_row(description, length):
    family, head, model, labels = description
    rows = configuration(model, head, labels, length)["max_position_embeddings"]
    assert rows == (max(model.max_position_embeddings, length) if family == "roformer" else rows)


def test_only_sizes_and_the_class_must_be_there():
    """The rest is transformers' defaults."""
    config = PLAIN | {"model_type": "roformer", "architectures": ["RoFormerForTokenClassification"]}
    assert described(config, "test") == Description(
        "roformer", "token_classifier", RoFormerConfig(**PLAIN, max_position_embeddings=1536), ("LABEL_0", "LABEL_1")
    )
    bert = PLAIN | {"model_type": "bert", "architectures": ["BertModel"]}
    assert described(bert, "test").model == RoFormerConfig(**PLAIN, position_encoding="learned")


@pytest.mark.parametrize("architecture", ["BertForNextSentencePrediction", "BertForSequenceClassification"])
def test_other_heads_of_bert_are_an_encoder(architecture):
    assert described(PLAIN | {"model_type": "bert", "architectures": [architecture]}, "test").head == "encoder"


def test_berts_language_model_is_refused():
    config = PLAIN | {"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True}
    with pytest.raises(InputError, match="is_decoder"):
        described(config, "test")


def test_a_regression_is_one_output_and_says_so():
    config = configuration(RoFormerConfig(**PLAIN), "classifier", (), length=0)
    assert config["problem_type"] == "regression"
    assert described(config, "test").labels == ("LABEL_0",)


@pytest.mark.parametrize(
    ("fields", "head", "named"),
    [
        ({"attention": "linear", "attention_probs_dropout_prob": 0.0}, "encoder", "model.attention = linear"),
        ({"rope_theta": 500.0}, "encoder", "model.rope_theta = 500.0"),
        ({"rope_scaling": "ntk", "rope_scaling_factor": 2.0}, "encoder", "model.rope_scaling = ntk"),
        ({"classifier_pooling": "mean"}, "classifier", "model.classifier_pooling = mean"),
        ({"position_encoding": "learned"}, "classifier", "learned with the head classifier"),
        ({"position_encoding": "learned"}, "causal_lm", "learned with the head causal_lm"),
        ({"position_encoding": "learned", "norm_type": "rms_norm"}, "encoder", "learned with the head encoder"),
        ({"position_encoding": "learned", "embedding_size": 4}, "encoder", "learned with the head encoder"),
    ]
    + [
        ({"position_encoding": name}, "encoder", f"model.position_encoding = {name}")
        for name in ("sinusoidal", "alibi", "t5", "shaw", "none")
    ],
)
def test_what_transformers_does_not_have_is_named(fields, head, named):
    with pytest.raises(InputError, match=named):
        configuration(RoFormerConfig(**PLAIN, **fields), head, (), length=0)


def test_no_segments_are_one_kind_of_segment():
    """transformers always has such a table; that of one row of zeros adds nothing."""
    model = RoFormerConfig(**PLAIN, type_vocab_size=0)
    config = configuration(model, "encoder", (), length=0)
    assert config["type_vocab_size"] == 1
    assert described(config, "test").model == dataclasses.replace(model, type_vocab_size=1, max_position_embeddings=512)
