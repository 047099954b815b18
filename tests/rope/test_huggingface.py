"""A configuration of Hugging Face is read as transformers reads it (golden arrays: tests/golden/make_rope.py)."""

import json
import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roformer_jax import rope
from roformer_jax.rope.families import FAMILIES

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "rope.npz")
CASES = json.loads(str(GOLDEN["cases"]))
GOLDEN_FAMILIES = json.loads(str(GOLDEN["families"]))
EPS = np.finfo(np.float32).eps

PLAIN = {"rope_type": "default", "rope_theta": 1e4}
LLAMA = {"model_type": "llama", "rope_theta": 1e4, "hidden_size": 64, "num_attention_heads": 4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 1e4}
NESTED = {"full_attention": PLAIN, "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e5}}


def case_id(case):
    return "-".join(str(case[key]) for key in ("name", "layer_type", "length") if case[key] is not None)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_frequencies_and_gain_are_those_of_transformers(case):
    spec = rope.from_huggingface(case["config"], layer_type=case["layer_type"], length=case["length"])
    freqs = spec.freqs if spec.freqs.ndim == 1 else spec.freqs.sum(axis=0)
    assert 2 * freqs.size == spec.rotary_dim
    # transformers computes in float32. The exponent is rounded by half an eps, so the power by ln(theta) / 2; power,
    # reciprocal and factors add one each; the rounding of YaRN's ramp counts `factor` times in a pair slowed by it.
    parameters = case["config"].get("rope_scaling") or {}
    blend = (parameters.get("factor") or 4) if "factor" in parameters else 0
    tolerance = (math.log(1 / np.min(freqs[freqs > 0])) / 2 + 4 + blend) * EPS
    np.testing.assert_allclose(freqs, GOLDEN[case["key"]], rtol=tolerance)
    assert spec.gain == pytest.approx(case["gain"], rel=1e-12)


@pytest.mark.parametrize("family", GOLDEN_FAMILIES, ids=lambda family: family["key"])
def test_a_query_is_rotated_as_by_the_code_of_its_model_type(family):
    spec = rope.from_huggingface(family["config"], layer_type=family["layer_type"])
    positions = GOLDEN["positions"] if spec.freqs.ndim == 2 else GOLDEN["positions"][:, 0]
    query = jnp.asarray(GOLDEN["query"][:, : spec.rotary_dim])
    table = rope.rotation(positions, spec.freqs, gain=spec.gain)
    rotated = rope.rotate(query, table, layout=spec.layout, head_axis=None)
    # An angle of m radians in float32 is off by m eps for the product and as much for the frequency.
    tolerance = 2 * positions.max() * EPS * spec.gain * np.abs(query).max() * math.sqrt(2)
    np.testing.assert_allclose(rotated, GOLDEN[family["key"]], rtol=0, atol=tolerance)


def test_every_model_type_in_the_table_was_checked():
    checked = {family["config"]["model_type"].removesuffix("_text") for family in GOLDEN_FAMILIES}
    assert checked == set(FAMILIES)


def test_rope_interleave_chooses_the_layout():
    config = LLAMA | {"model_type": "deepseek_v3", "qk_rope_head_dim": 16}
    assert rope.from_huggingface(config).layout == "interleaved_to_half"
    assert rope.from_huggingface(config | {"rope_interleave": False}).layout == "half"


def test_a_model_type_that_was_not_checked_has_no_layout():
    assert rope.from_huggingface(LLAMA | {"model_type": "nanochat"}).layout is None


@pytest.mark.parametrize(
    "config",
    [
        LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
        LLAMA | {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": None}},
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, "rope_theta": 7.0},
        {"text_config": LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}}, "model_type": "llava"},
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    ],
)
def test_every_form_of_the_dictionary_says_the_same(config):
    spec = rope.from_huggingface(config, head_dim=16)
    np.testing.assert_array_equal(spec.freqs, rope.frequencies(16, 1e4) / 4)
    assert spec.gain == 1
    assert spec.rotary_dim == 16


def test_older_names_of_types_are_understood():
    longrope = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 8.0, "rope_theta": 1e4}
    old, new = (
        rope.from_huggingface({"type": name, "original_max_position_embeddings": 64} | longrope, 16)
        for name in ("su", "longrope")
    )
    np.testing.assert_array_equal(old.freqs, new.freqs)
    sections = {"type": "mrope", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
    assert rope.from_huggingface(sections, 16).freqs.shape == (3, 8)


def test_layer_types_have_their_own_frequencies():
    full, sliding = (rope.from_huggingface(NESTED, 16, layer_type=name).freqs for name in NESTED)
    np.testing.assert_array_equal(full, rope.frequencies(16, 1e4))
    np.testing.assert_array_equal(sliding, rope.frequencies(16, 1e5) / 2)


def test_a_layer_type_without_a_dictionary_is_not_rotated():
    config = LLAMA | {"rope_parameters": NESTED | {"full_attention": None}}
    spec = rope.from_huggingface(config, layer_type="full_attention")
    query = jnp.ones((3, 16))
    table = rope.rotation(np.arange(3), spec.freqs, gain=spec.gain)
    np.testing.assert_array_equal(rope.rotate(query, table, layout=spec.layout, head_axis=None), query)


def test_truncate_counts_inside_a_nested_dictionary_too():
    exact = YARN | {"truncate": False}
    nested = rope.from_huggingface({"full_attention": exact}, 64, layer_type="full_attention")
    np.testing.assert_array_equal(nested.freqs, rope.from_huggingface(exact, 64).freqs)
    assert not np.array_equal(nested.freqs, rope.from_huggingface(YARN, 64).freqs)


def test_layers_may_have_heads_of_other_sizes():
    config = LLAMA | {
        "rope_parameters": NESTED,
        "head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "per_layer_config": {"1": {"head_dim": 32}},
    }
    assert rope.from_huggingface(config, layer_type="sliding_attention").rotary_dim == 16
    assert rope.from_huggingface(config, layer_type="full_attention").rotary_dim == 32


@pytest.mark.parametrize(("interleaved", "second"), [(False, 0), (True, 1)])
def test_sections_of_a_bare_dictionary_lie_as_it_says(interleaved, second):
    dictionary = PLAIN | {"mrope_section": [4, 2, 2], "mrope_interleaved": interleaved}
    freqs = rope.from_huggingface(dictionary, 16).freqs
    assert np.flatnonzero(freqs[:, 1]) == [second]


def test_a_traced_length_does_not_recompile():
    config = LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 64}
    chex.clear_trace_counter()
    read = jax.jit(chex.assert_max_traces(lambda length: rope.from_huggingface(config, length=length).freqs, n=1))
    for length in (32, 64, 65, 1000):
        expected = rope.from_huggingface(config, length=length).freqs
        np.testing.assert_allclose(read(jnp.int32(length)), expected, rtol=16 * EPS)


@pytest.mark.parametrize(
    ("config", "layer_type", "message"),
    [
        (PLAIN | {"rope_type": "ntk"}, None, r"one of default, linear, .*, proportional; got ntk"),
        (YARN | {"type": "linear"}, None, "rope_type must be one of .*; got linear and yarn"),
        (YARN | {"alpha": 2.0}, None, r"unknown fields of rope_type 'yarn': alpha; it has rope_type, .*truncate"),
        (PLAIN | {"factor": 2.0}, None, "unknown fields of rope_type 'default': factor"),
        ({"rope_type": "linear", "rope_theta": 1e4}, None, "rope_type 'linear' needs factor, got"),
        ({"rope_type": "default"}, None, "rope_type 'default' needs rope_theta, got"),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, None, "needs max_position_embeddings, got"),
        (PLAIN | {"mrope_interleaved": True}, None, "mrope_section is missing"),
        (PLAIN | {"mrope_section": [2, 3, 4]}, None, "sections have to add up"),
        (PLAIN | {"partial_rotary_factor": 0.2}, None, "positive even number of channels .* got 3"),
        (NESTED, None, "layer_type must be one of 'full_attention', 'sliding_attention'; got None"),
        (NESTED, "chunked", "layer_type must be one of 'full_attention', 'sliding_attention'; got 'chunked'"),
        (PLAIN, "full_attention", "layer_type must be one of None, for all layers rotate alike; got 'full_attention'"),
        (NESTED | {"rope_theta": 1e4}, "full_attention", r"nested by layer type, but has .*\['rope_theta'\]"),
        (LLAMA | {"rope_scaling": PLAIN, "rope_parameters": YARN}, None, "rope_parameters and rope_scaling disagree"),
        (LLAMA | {"rope_ratio": 2.0}, None, r"model_type 'llama'\) has fields on RoPE .* not understood: rope_ratio"),
        (LLAMA | {"rope_local_base_freq": 1e4}, None, "not understood: rope_local_base_freq"),
        (LLAMA | {"rope_scaling": {"mrope_section": [2, 3, 3]}}, None, "not what is known of model_type 'llama'"),
        (
            LLAMA
            | {"model_type": "qwen3_vl", "rope_scaling": {"mrope_section": [4, 2, 2], "mrope_interleaved": False}},
            None,
            "mrope_interleaved=False is not what is known of model_type 'qwen3_vl'",
        ),
        (LLAMA | {"model_type": "qwen2_vl"}, None, "mrope_section is missing: model_type 'qwen2_vl'"),
        (LLAMA | {"model_type": "gpt_oss"}, None, "model_type 'gpt_oss' needs rope_parameters or rope_scaling"),
        (
            LLAMA | {"rotary_dim": 6, "partial_rotary_factor": 0.5},
            None,
            "6 channels rotate, but also 0.5 of 16 channels",
        ),
    ],
)
def test_what_is_not_understood_is_refused(config, layer_type, message):
    with pytest.raises(ValueError, match=message):
        rope.from_huggingface(config, 16, layer_type=layer_type)


def test_a_head_size_that_nothing_says_is_asked_for():
    with pytest.raises(ValueError, match="no head_dim, nor hidden_size and num_attention_heads, in the configuration"):
        rope.from_huggingface(PLAIN)
