"""Model types of Hugging Face: how transformers' code rotates, and what it assumes where a config.json is silent."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from roformer_jax.rope.axes import contiguous_sections, strided_sections


class Layer(NamedTuple):
    """What an old flat configuration says of a layer type: its field of theta, and whether `rope_scaling` is for it."""

    theta_field: str
    theta: float
    scaled: bool


class Family(NamedTuple):
    """What transformers' code for a model type does where its config.json is silent."""

    layout: str | None
    theta: float | None = 10_000.0  # None: no theta is assumed
    partial: float = 1.0
    sections: Callable[[tuple[int, ...]], np.ndarray] | None = None  # how M-RoPE deals pairs to axes
    layers: Mapping[str, Layer] = {}  # layer types that an old flat configuration implies
    global_head_dim: int | None = None  # head size of layers of full attention


GEMMA3 = {
    "full_attention": Layer("rope_theta", 1e6, scaled=True),
    "sliding_attention": Layer("rope_local_base_freq", 1e4, scaled=False),
}
MODERNBERT = {
    "full_attention": Layer("global_rope_theta", 160_000.0, scaled=True),
    "sliding_attention": Layer("local_rope_theta", 10_000.0, scaled=True),
}
LLAMA_LIKE = (
    "arcee falcon gemma gemma2 granite granitemoe llama minicpm3 ministral mistral olmo olmo2 olmoe phi3 qwen2 "
    "qwen2_moe qwen3 qwen3_moe seed_oss starcoder2"
)
UNKNOWN = Family(layout=None, theta=None)
FAMILIES = {  # found by running transformers 5.23.0 (tests/golden/make_rope.py); `_text` is dropped from model types
    model_type: family
    for model_types, family in [
        (LLAMA_LIKE, Family("half")),
        ("gemma4", Family("half", theta=None, global_head_dim=512)),
        ("gpt_oss ministral3", Family("half", theta=None)),
        ("gemma3 gemma3n", Family("half", layers=GEMMA3)),
        ("modernbert", Family("half", layers=MODERNBERT)),
        ("bitnet", Family("half", theta=5e5)),
        ("lfm2 mixtral", Family("half", theta=1e6)),
        ("smollm3", Family("half", theta=2e6)),
        ("glm4_moe nemotron persimmon phi", Family("half", partial=0.5)),
        ("gpt_neox qwen3_next stablelm", Family("half", partial=0.25)),
        ("qwen2_vl qwen2_5_vl", Family("half", theta=1e6, sections=contiguous_sections)),
        ("qwen3_vl qwen3_vl_moe", Family("half", theta=5e5, sections=strided_sections)),
        ("qwen3_5 qwen3_5_moe", Family("half", partial=0.25, sections=strided_sections)),
        ("codegen cohere2 deepseek_v2 gptj roformer", Family("interleaved")),
        ("cohere ernie4_5 ernie4_5_moe llama4", Family("interleaved", theta=5e5)),
        ("helium", Family("interleaved", theta=1e5)),
        ("glm glm4", Family("interleaved", partial=0.5)),
        ("glm4v", Family("interleaved", sections=contiguous_sections)),
        ("deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa youtu", Family("interleaved_to_half")),
        ("longcat_flash", Family("interleaved_to_half", theta=1e7)),
        ("mistral4", Family("interleaved_to_half", theta=None)),
    ]
    for model_type in model_types.split()
}
