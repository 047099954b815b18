import dataclasses

import pytest

from roformer_jax.errors import InputError
from roformer_jax.models import RoFormerConfig

LINEAR = {"attention": "linear", "attention_probs_dropout_prob": 0.0}


def test_defaults_are_the_base_model_of_the_paper():
    config = RoFormerConfig()
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    assert sizes == (12, 768, 12, 3072)
    assert config.head_size == 64
    assert (config.position_encoding, config.rope_theta, config.layer_norm_eps) == ("rope", 10_000.0, 1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "model.vocab_size = 0 must be positive"),
        ({"num_hidden_layers": -1}, "model.num_hidden_layers = -1 must be positive"),
        ({"rope_theta": 0.0}, r"model.rope_theta = 0.0 must be positive"),
        ({"layer_norm_eps": float("inf")}, "model.layer_norm_eps = inf must be positive and finite"),
        ({"hidden_dropout_prob": 1.0}, r"model.hidden_dropout_prob = 1.0 must lie in \[0, 1\)"),
        ({"attention_probs_dropout_prob": -0.1}, r"model.attention_probs_dropout_prob = -0.1 must lie in \[0, 1\)"),
        ({"num_attention_heads": 5}, "num_attention_heads = 5 does not divide model.hidden_size = 768"),
        ({"relative_distance": 0}, "model.relative_distance = 0 must be positive"),
        ({"rope_scaling": "ntk", "rope_scaling_factor": 0.5}, "model.rope_scaling_factor = 0.5 must be at least 1"),
        ({"rope_scaling_factor": 2.0}, "rope_scaling_factor = 2.0 does nothing with model.rope_scaling = none"),
        (
            {"rope_scaling": "linear", "position_encoding": "alibi"},
            "rope_scaling = linear scales rotary frequencies, but model.position_encoding = alibi has none",
        ),
        (
            {"rope_scaling": "yarn", "hidden_size": 24},
            r"at least two pairs of channels per head \(the head size is 2\)",
        ),
        ({"rope_scaling": "yarn", "rope_theta": 1.0}, "model.rope_theta = 1.0 above 1"),
        (LINEAR | {"position_encoding": "t5"}, "model.position_encoding = t5 is added to attention logits"),
        (LINEAR | {"position_encoding": "alibi"}, "use rope, learned, sinusoidal or none"),
        (LINEAR | {"position_encoding": "shaw"}, "position_encoding = shaw .* model.attention = linear has none"),
        (LINEAR | {"rope_scaling": "yarn"}, "yarn changes the temperature of a softmax"),
        (
            LINEAR | {"attention_probs_dropout_prob": 0.1},
            "model.attention_probs_dropout_prob = 0.1 drops .* model.attention = linear .* set it to 0",
        ),
        ({"hidden_size": 9, "num_attention_heads": 3}, "head size is odd: model.hidden_size = 9 / .* = 3 = 3"),
        (
            {"hidden_size": 9, "num_attention_heads": 3, "position_encoding": "sinusoidal"},
            "model.hidden_size = 9 must be even",
        ),
    ],
)
def test_impossible_values_are_refused_by_name(fields, message):
    with pytest.raises(InputError, match=message):
        RoFormerConfig(**fields)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("position_encoding", "rotary", "rope, learned, sinusoidal, alibi, t5, shaw, none"),
        ("rope_scaling", "llama3", "none, linear, ntk, yarn"),
        ("attention", "flash", "softmax, linear"),
        ("feature_map", "exp", "elu, relu, softmax, favor"),
        ("linear_rotation", "never", "after, before"),
        ("classifier_pooling", "max", "cls, mean"),
        ("dtype", "float16", "float32, bfloat16"),
        ("remat", "all", "none, dots, full"),
    ],
)
def test_unknown_choices_are_refused_also_where_no_types_are_checked(field, value, allowed):
    config = RoFormerConfig()
    object.__setattr__(config, field, value)  # the type checker of the tests would refuse it in the constructor
    with pytest.raises(InputError, match=f"model.{field} = '{value}' must be one of {allowed}"):
        config.__post_init__()


@pytest.mark.parametrize("position_encoding", ["learned", "none"])
def test_odd_heads_are_fine_where_nothing_is_rotated(position_encoding):
    config = RoFormerConfig(hidden_size=9, num_attention_heads=3, position_encoding=position_encoding)
    assert config.head_size == 3


@pytest.mark.parametrize(("head_size", "features"), [(2, 2), (8, 16), (64, 266), (128, 620)])
def test_favor_has_d_log_d_features_an_even_number(head_size, features):
    """performer-pytorch takes int(d log d), 16, 266 and 621; pairs need it even."""
    config = RoFormerConfig(**LINEAR, feature_map="favor", hidden_size=head_size, num_attention_heads=1)
    assert config.num_features == config.rotary_dim == features
    before = dataclasses.replace(config, linear_rotation="before")
    assert (before.num_features, before.rotary_dim) == (features, head_size)


def test_only_learned_positions_limit_the_length():
    learned = RoFormerConfig(position_encoding="learned", max_position_embeddings=8)
    learned.check_length(8)
    with pytest.raises(InputError, match=r"rows of 9 tokens .* model.max_position_embeddings = 8"):
        learned.check_length(9)
    for other in ("rope", "sinusoidal", "alibi", "t5", "shaw", "none"):
        dataclasses.replace(learned, position_encoding=other).check_length(10**6)
