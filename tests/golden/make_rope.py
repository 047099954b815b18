"""Golden frequencies, gains and rotated vectors of Hugging Face transformers, for every kind of RoPE that it has.

    pip install "torch==2.13.0" "transformers==5.23.0"      # an environment of its own: `make test-peers` makes one
    python tests/golden/make_rope.py                        # writes tests/golden/rope.npz

`cases` is a JSON list of configurations (every rope_type, and the RoPE fields of published models), with a layer type
and a length where they matter, and the gain that transformers computes; the array named by its `key` is `inv_freq`.
`families` has one small configuration per model type that says as little as possible, so that transformers fills in
what it assumes; the array named by its `key` is `query` rotated at `positions` by the code of that model type. Nothing
of roformer_jax is imported here.
"""

import argparse
import importlib
import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

POSITIONS = [[0, 0, 0], [1, 5, 2], [37, 11, 23]]  # of every axis; axis 0 is the position in a text
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "num_hidden_layers": 6}
MLA = {"qk_rope_head_dim": 16, "qk_nope_head_dim": 16}
LAYER_TYPES = ("full_attention", "sliding_attention")

LLAMA = {"model_type": "llama", "rope_theta": 5e5, "hidden_size": 4096, "num_attention_heads": 32}
SMALL = LLAMA | {"head_dim": 64, "max_position_embeddings": 4096}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1 + 0.02 * i for i in range(32)],
    "long_factor": [1 + 0.5 * i for i in range(32)],
    "original_max_position_embeddings": 1024,
}
LLAMA3 = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
DEEPSEEK = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
# The factors of microsoft/Phi-3-vision-128k-instruct, whose text model is a Phi-3-mini-128k, as quoted in the tests of
# Blaizzy/mlx-vlm; the published file repeats float32 numbers, so two decimals say the long ones up to that rounding.
PHI3_SHORT = [
    1.05, 1.05, 1.05, 1.1, 1.1, 1.1, 1.25, 1.25, 1.4, 1.45, 1.55, 1.85, 1.9, *18 * [2.0], 2.0, 2.1, 2.1, 2.2,
    2.35, 2.35, 2.35, 2.35, 2.4, 2.4, 2.65, 2.7, 2.9, 2.95, 3.05, 3.05, 3.05,
]  # fmt: skip
PHI3_LONG = [
    1.03, 1.05, 1.05, 1.08, 1.23, 1.23, 1.3, 1.45, 1.6, 1.65, 1.9, 2.86, 3.69, 5.42, 5.49, 5.49, 9.09, 11.58, 15.66,
    15.77, 15.79, 18.36, 21.99, 23.08, 30.01, 32.35, 32.59, 35.56, 39.95, 53.84, 56.2, 57.95, 59.29, 59.77, 59.92,
    61.19, 61.96, 62.5, 63.37, 63.48, 63.48, 63.66, 63.85, 64.08, 64.76, 64.8, 64.81, 64.81,
]  # fmt: skip

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "default, partial": {"model_type": "phi", "partial_rotary_factor": 0.375},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "linear, theta inside": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "dynamic, partial": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "partial_rotary_factor": 0.5},
    "yarn": {"rope_scaling": YARN},
    "yarn, partial": {"rope_scaling": YARN | {"partial_rotary_factor": 0.5}},
    "yarn, not truncated": {"rope_scaling": YARN | {"truncate": False}},
    "yarn, betas": {"rope_scaling": YARN | {"beta_fast": 20.0, "beta_slow": 2.5}},
    "yarn, attention_factor": {"rope_scaling": YARN | {"attention_factor": 1.25, "mscale": 2.0, "mscale_all_dim": 1.0}},
    "yarn, mscales": {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 1.3}},
    "yarn, one mscale": {"rope_scaling": YARN | {"mscale": 0.707}},
    "yarn, original length outside": {"rope_scaling": YARN, "original_max_position_embeddings": 512},
    "yarn, no original length": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn, factor by lengths": {"rope_scaling": YARN | {"factor": None}},
    "longrope": {"rope_scaling": LONGROPE | {"factor": 8.0}},
    "longrope, factor by lengths": {"rope_scaling": LONGROPE},
    "longrope, attention_factor": {"rope_scaling": LONGROPE | {"attention_factor": 1.5}},
    "llama3": {"rope_scaling": LLAMA3 | {"factor": 8.0}},
    "llama3, other turns": {"rope_scaling": LLAMA3 | {"factor": 4.0, "low_freq_factor": 2.0, "high_freq_factor": 9.0}},
    "proportional": {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.3}},
    "proportional, factor": {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e6, "factor": 8.0}},
}
LENGTHS = {
    "dynamic": (100, 4096, 4097, 6000, 40_000),
    "dynamic, partial": (5000,),
    "longrope": (100, 1024, 1025, 8192),
    "Phi-3-mini-128k": (4096, 4097, 100_000),
}
PUBLISHED: dict[str, dict[str, Any]] = {  # the fields on RoPE and sizes of config.json files on the Hub
    "Llama-3.1-8B": LLAMA | {"max_position_embeddings": 131_072, "rope_scaling": LLAMA3 | {"factor": 8.0}},
    "Llama-3.2-1B": LLAMA | {
        "hidden_size": 2048, "head_dim": 64, "max_position_embeddings": 131_072,
        "rope_scaling": LLAMA3 | {"factor": 32.0},
    },
    "Phi-3-mini-128k": {
        "model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 32, "rope_theta": 10_000.0,
        "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "pad_token_id": 0,
        "rope_scaling": {"long_factor": PHI3_LONG, "short_factor": PHI3_SHORT, "type": "longrope"},
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss", "hidden_size": 2880, "num_attention_heads": 64, "head_dim": 64,
        "rope_theta": 150_000, "max_position_embeddings": 131_072,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
            "rope_type": "yarn", "truncate": False,
        },
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text", "hidden_size": 1152, "num_attention_heads": 4, "head_dim": 256,
        "rope_theta": 1_000_000, "rope_local_base_freq": 10_000, "rope_scaling": None,
    },
    "gemma-3-4b": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "head_dim": 256,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        },
    },
    "gemma-4": {
        "model_type": "gemma4_text", "hidden_size": 1536, "num_attention_heads": 8, "head_dim": 256,
        "global_head_dim": 512, "num_hidden_layers": 6,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
        },
    },
    "Qwen2-VL-7B": {
        "model_type": "qwen2_vl", "hidden_size": 3584, "num_attention_heads": 28, "rope_theta": 1_000_000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    },
    "Qwen3-VL-8B": {
        "model_type": "qwen3_vl",
        "text_config": {
            "model_type": "qwen3_vl_text", "hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128,
            "rope_theta": 5_000_000,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        },
    },
    "DeepSeek-V2": {
        "model_type": "deepseek_v2", "hidden_size": 5120, "num_attention_heads": 128, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "rope_theta": 10_000, "max_position_embeddings": 163_840,
        "rope_scaling": DEEPSEEK | {"mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "DeepSeek-V3": {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "rope_theta": 10_000, "max_position_embeddings": 163_840,
        "rope_scaling": DEEPSEEK | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "ModernBERT-base": {
        "model_type": "modernbert", "hidden_size": 768, "num_attention_heads": 12, "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
    },
    "GPT-NeoX-20B": {
        "model_type": "gpt_neox", "hidden_size": 6144, "num_attention_heads": 64, "rotary_emb_base": 10_000,
        "rotary_pct": 0.25,
    },
}  # fmt: skip

TEXT = (
    "arcee bitnet cohere2 ernie4_5 ernie4_5_moe gemma gemma2 glm glm4 glm4_moe gpt_neox granite granitemoe helium "
    "lfm2 llama ministral mistral mixtral nemotron olmo olmo2 olmoe persimmon phi phi3 qwen2 qwen2_moe qwen3 "
    "qwen3_moe qwen3_next seed_oss smollm3 stablelm starcoder2 cohere gemma3_text gemma3n_text modernbert"
)
LATENT = "deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa longcat_flash minicpm3 youtu"
FAMILIES: dict[str, dict[str, Any]] = {
    **{model_type: {} for model_type in TEXT.split()},
    **{name: MLA for name in LATENT.split()},
    **{name: {"rope_theta": 1e5, "rope_scaling": YARN} for name in ("gpt_oss", "ministral3")},
    "mistral4": MLA | {"head_dim": 32, "rope_parameters": YARN | {"rope_theta": 1e5, "partial_rotary_factor": 0.5}},
    "gemma4_text": {"global_head_dim": 32, "rope_parameters": PUBLISHED["gemma-4"]["rope_parameters"]},
    "llama4_text": {},
    "falcon": {"head_dim": None},  # it has none
    **{
        name: {"rope_parameters": {"mrope_section": sizes}}
        for name, sizes in {
            "qwen2_vl_text": [2, 3, 3], "qwen2_5_vl_text": [2, 3, 3], "qwen3_vl_text": [4, 2, 2],
            "qwen3_vl_moe_text": [4, 2, 2], "glm4v_text": [2, 3, 3],
        }.items()
    },
    **{
        name: {"head_dim": 64, "rope_parameters": {"mrope_section": [4, 2, 2]}}
        for name in ("qwen3_5_text", "qwen3_5_moe_text")
    },
    **{name: {"rotary_dim": 8} for name in ("gptj", "codegen")},
    "roformer": {},
}  # fmt: skip


def modeling(config: PreTrainedConfig) -> ModuleType:
    """The modeling module of a configuration."""
    return importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))


def read(raw: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of the text model, as transformers makes it from config.json."""
    return AutoConfig.for_model(**json.loads(json.dumps(raw))).get_text_config()


def embedding(config: PreTrainedConfig) -> torch.nn.Module:
    """The rotary embedding that the text model makes of its configuration."""
    names = [name for name in vars(modeling(config)) if name.endswith("RotaryEmbedding")]
    (name,) = [name for name in names if "Vision" not in name and "Audio" not in name]
    return getattr(modeling(config), name)(config)


def spectrum(config: PreTrainedConfig, layer_type: str | None, length: int | None) -> tuple[np.ndarray, float]:
    """Frequencies and gain of a layer type, for a text of a length."""
    module = embedding(config)
    prefix = "" if layer_type is None else f"{layer_type}_"
    if length is None:
        return getattr(module, f"{prefix}inv_freq").numpy(), float(getattr(module, f"{prefix}attention_scaling"))
    compute = ROPE_INIT_FUNCTIONS[module.rope_type]
    inv_freq, gain = compute(config, "cpu", seq_len=length)
    return inv_freq.numpy(), float(gain)


def rotated(config: PreTrainedConfig, layer_type: str | None, query: torch.Tensor) -> torch.Tensor:
    """The query [L, R] at POSITIONS, rotated by the functions that the attention of the model type calls."""
    module, text = modeling(config), torch.tensor(POSITIONS)[:, 0]
    per_token = query[None, :, None]  # batch, tokens, heads, channels
    per_head = query[None, None]  # batch, heads, tokens, channels
    size = query.shape[-1]
    if config.model_type in ("gptj", "codegen"):
        sin, cos = module.create_sinusoidal_positions(64, size)[text][None].chunk(2, dim=-1)
        return module.apply_rotary_pos_emb(per_token, sin, cos)[0, :, 0]
    if config.model_type == "roformer":
        table = module.RoFormerSinusoidalPositionalEmbedding(64, size).create_weight()
        rotate = module.RoFormerSelfAttention.apply_rotary_position_embeddings
        return rotate(table[text][None, None], per_head, per_head)[0][0, 0]
    positions = torch.tensor(POSITIONS).T[:, None] if "mrope_section" in config.rope_parameters else text[None]
    table = embedding(config)(query, positions, *([layer_type] if layer_type else []))
    if config.model_type == "llama4_text":
        return module.apply_rotary_emb(per_token, per_token, table)[0][0, :, 0]
    if config.model_type == "deepseek_v2":
        return module.apply_rotary_emb(per_head, per_head, table)[0][0, 0]
    if config.model_type.startswith(("gemma3n", "gemma4")):
        return module.apply_rotary_pos_emb(per_head, *table)[0, 0]
    plain = getattr(module, "apply_rotary_pos_emb", None)
    rotate = getattr(module, "apply_rotary_pos_emb_interleave", plain)
    return rotate(per_head, per_head, *table)[0][0, 0]


def make_cases() -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Every case of CASES and PUBLISHED, for every layer type and length."""
    cases, arrays = [], {}
    for name, raw in [*((name, SMALL | raw) for name, raw in CASES.items()), *PUBLISHED.items()]:
        config = read(raw)
        nested = LAYER_TYPES[0] in config.rope_parameters
        for layer_type in LAYER_TYPES if nested else (None,):
            for length in (None, *LENGTHS.get(name, ())):
                key = f"case {len(cases)}"
                arrays[key], gain = spectrum(config, layer_type, length)
                cases.append(
                    {"key": key, "name": name, "config": raw, "layer_type": layer_type, "length": length, "gain": gain}
                )
    return cases, arrays


def make_families(query: torch.Tensor) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Every model type of FAMILIES: its query rotated by its own code."""
    families, arrays = [], {}
    for model_type, fields in FAMILIES.items():
        raw = {key: value for key, value in ({"model_type": model_type} | SIZES | fields).items() if value is not None}
        config = read(raw)
        rope = getattr(config, "rope_parameters", None) or {}
        for layer_type in LAYER_TYPES if LAYER_TYPES[0] in rope else (None,):
            key = f"family {model_type} {layer_type}"
            size = fields.get("rotary_dim", 16)
            if rope:
                prefix = "" if layer_type is None else f"{layer_type}_"
                size = 2 * getattr(embedding(config), f"{prefix}inv_freq").numel()
            arrays[key] = rotated(config, layer_type, query[:, :size]).detach().numpy()
            families.append({"key": key, "config": raw, "layer_type": layer_type})
    return families, arrays


def make(seed: int = 2104) -> dict[str, np.ndarray]:
    """All arrays of the golden file; the seed is of the query."""
    query = torch.randn(len(POSITIONS), 32, generator=torch.Generator().manual_seed(seed))
    cases, spectra = make_cases()
    families, vectors = make_families(query)
    described = {"cases": np.array(json.dumps(cases)), "families": np.array(json.dumps(families))}
    return described | {"positions": np.array(POSITIONS), "query": query.numpy()} | spectra | vectors


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("rope.npz"), help="file to write")
    options = parser.parse_args()
    logging.disable()  # transformers warns of every field that it finds unusual
    np.savez_compressed(options.output, **make())
    print(f"wrote {options.output} ({options.output.stat().st_size:,} bytes)")
