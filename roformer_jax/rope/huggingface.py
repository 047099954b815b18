"""Reading Hugging Face's RoPE settings: the frequencies and gain that transformers computes from a `config.json`."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from roformer_jax.rope.axes import contiguous_sections, per_axis, strided_sections
from roformer_jax.rope.families import FAMILIES, UNKNOWN, Family, Layer
from roformer_jax.rope.scaling import (
    longrope_gain,
    scale_dynamic_ntk,
    scale_linear,
    scale_llama3,
    scale_longrope,
    scale_yarn,
    yarn_gain,
)
from roformer_jax.rope.spectra import Scalar, Spectrum, frequencies
from roformer_jax.typing import Array, Float

ORIGINAL, LONGEST = "original_max_position_embeddings", "max_position_embeddings"
MSCALES = ("mscale", "mscale_all_dim")
FIELDS = {  # rope_type -> the fields it needs, and those it can do without
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor", LONGEST), ()),
    "yarn": (("factor", ORIGINAL), ("attention_factor", "beta_fast", "beta_slow", *MSCALES, "truncate")),
    "longrope": (("factor", ORIGINAL, "short_factor", "long_factor"), ("attention_factor",)),
    "llama3": (("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"), ()),
    "proportional": ((), ("factor",)),
}
ALIASES = {"su": "longrope", "mrope": "default"}  # older names
COMMON_FIELDS = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
HARMLESS_FIELDS = (LONGEST, "llama_4_scaling_beta")  # in Mistral's dictionaries; the latter scales queries, not angles
MODEL_FIELDS = {"model_type", "text_config", "rope_parameters", "rope_scaling", "hidden_size", "head_dim"}
# A model's other fields with rope or rotary in their name are refused, for they may change the angles. The last line
# here is of fields that say which layers and tensors rotate, not by how much.
ROPE_FIELDS = {
    "rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base", "partial_rotary_factor", "rotary_pct",
    "rotary_dim", "qk_rope_head_dim", "rope_interleave",
    "no_rope_layers", "no_rope_layer_interval", "rotary_value",
}  # fmt: skip
Spectra = Float[Array | np.ndarray, "*axes pairs"]
Fields = Mapping[str, Any]


class RopeSpec(NamedTuple):
    """How a model rotates: the arguments of `rotation(positions, freqs, gain=gain)` and `rotate(.., layout=layout)`.

    `freqs` is [F], or [A, F] for M-RoPE; `rotary_dim` = 2F channels of a head rotate; `layout` is None where the model
    type is not in `FAMILIES`. DeepSeek scales its softmax besides (`yarn_gain`), which is no part of the rotation.
    """

    freqs: Spectra
    gain: Scalar
    rotary_dim: int
    layout: str | None


def from_huggingface(
    config: Fields,
    head_dim: int | None = None,
    *,
    layer_type: str | None = None,
    length: Scalar | None = None,
) -> RopeSpec:
    """Returns what transformers 5.23 computes from a configuration, for every `rope_type` it has but `axial`.

    Reads `rope_parameters` or `rope_scaling`, `rope_type` or `type`, dictionaries nested by layer type, theta and the
    partial factor inside or outside, and M-RoPE sections. One difference is meant: YaRN's `truncate` counts inside a
    nested dictionary too, where transformers overlooks it. Which layers rotate at all (`no_rope_layers`; the sliding
    ones of Cohere 2) is left to the model, unless their dictionary is None.

    Args:
        config: a model's config.json as a dictionary, or its `text_config`, or the RoPE dictionary alone.
        head_dim: channels of a head; None: as the configuration says.
        layer_type: where the dictionary is nested (Gemma 3: "full_attention" or "sliding_attention"). Layers whose
            dictionary is None are not rotated: their frequencies are zero.
        length: tokens of the text, for `dynamic` and `longrope`; None: no longer than the texts of the training. Keys
            in a cache need one length for the whole text. May be traced.

    Returns:
        RopeSpec with NumPy float64 `freqs`, or JAX float32 where they depend on a `length` that is a JAX array.

    Raises:
        ValueError: for an unknown rope_type, layer type or field, a field that is missing, or fields that disagree.
    """
    model = {"rope_parameters": config} if not MODEL_FIELDS & config.keys() else {**config}
    model |= model.pop("text_config", None) or {}
    family = FAMILIES.get(str(model.get("model_type")).removesuffix("_text"), UNKNOWN)
    _check_model(model, family)
    plain = family.layout == "interleaved_to_half" and model.get("rope_interleave") is False
    layout = "half" if plain else family.layout
    layers = _layers(model, family)
    if layer_type not in layers:
        known = ", ".join(map(repr, layers)) if None not in layers else "None, for all layers rotate alike"
        raise ValueError(f"layer_type must be one of {known}; got {layer_type!r}")
    head_dim = _head_dim(model, family, layer_type) if head_dim is None else head_dim
    rope = None if layers[layer_type] is None else _complete(layers[layer_type], model, family, layer_type)
    rotary_dim = _rotary_dim(rope, model, head_dim)
    if rope is None:
        return RopeSpec(np.zeros(rotary_dim // 2), 1.0, rotary_dim, layout)
    keep = rope["partial_rotary_factor"] if rope["rope_type"] == "proportional" else 1.0
    freqs, gain = _scaled(frequencies(rotary_dim, rope["rope_theta"], keep=keep), rope, length)
    return RopeSpec(_dealt(freqs, rope, model.get("model_type"), family), gain, rotary_dim, layout)


def _check_model(model: Fields, family: Family) -> None:
    """Raises a ValueError for fields of the model that may change the angles in a way not known here."""
    known = ROPE_FIELDS | {layer.theta_field for layer in family.layers.values()}
    found = [key for key, value in model.items() if value is not None and re.search("(^|_)(rope|rotary)", key)]
    if unknown := [key for key in found if key not in known]:
        raise ValueError(
            f"the configuration (model_type {model.get('model_type')!r}) has fields on RoPE that are not understood: "
            f"{', '.join(unknown)}; remove them if they do not change the angles"
        )


def _layers(model: Fields, family: Family) -> dict[str | None, Fields | None]:
    """Returns the RoPE dictionary of every layer type, the only key being None where all layers rotate alike."""
    new, old = model.get("rope_parameters") or {}, model.get("rope_scaling") or {}
    if new and old and new != old:
        raise ValueError(f"rope_parameters and rope_scaling disagree: {new} and {old}")
    rope = new or old
    if not rope and family.theta is None and family is not UNKNOWN:
        raise ValueError(f"model_type {model['model_type']!r} needs rope_parameters or rope_scaling, got neither")
    if any(isinstance(value, Mapping) for value in rope.values()):
        if flat := [name for name, value in rope.items() if not isinstance(value, Mapping | None)]:
            raise ValueError(f"the RoPE dictionary is nested by layer type, but has fields beside them: {flat}")
        return dict(rope)
    return {name: rope if layer.scaled else {} for name, layer in family.layers.items()} or {None: rope}


def _complete(rope: Fields, model: Fields, family: Family, layer_type: str | None) -> dict[str, Any]:
    """Returns a RoPE dictionary of known fields only, filled in from the model, then from what its family assumes."""
    kinds = {ALIASES.get(rope[key], rope[key]) for key in ("rope_type", "type") if rope.get(key)} or {"default"}
    if len(kinds) > 1 or not kinds <= FIELDS.keys():
        raise ValueError(f"rope_type must be one of {', '.join(FIELDS)}; got {' and '.join(sorted(kinds))}")
    (kind,) = kinds
    needed, optional = FIELDS[kind]
    stated = {key: value for key, value in rope.items() if value is not None}
    if unknown := stated.keys() - {*COMMON_FIELDS, *HARMLESS_FIELDS, *needed, *optional}:
        raise ValueError(
            f"unknown fields of rope_type {kind!r}: {', '.join(sorted(unknown))}; "
            f"it has {', '.join([*COMMON_FIELDS, *needed, *optional])}"
        )
    rope = _outside(model, family, layer_type) | stated | {"rope_type": kind}
    # The lengths outside count before those inside (Phi-3), but an original one only if all layers rotate alike.
    lengths = (LONGEST, ORIGINAL) if layer_type is None else (LONGEST,)
    rope |= {name: model[name] for name in lengths if model.get(name)}
    if kind in ("yarn", "longrope") and ORIGINAL in rope and LONGEST in rope:
        rope.setdefault("factor", rope[LONGEST] / rope[ORIGINAL])
    if LONGEST in rope:
        rope.setdefault(ORIGINAL, rope[LONGEST])
    if missing := [key for key in ("rope_theta", *needed) if key not in rope]:
        raise ValueError(f"rope_type {kind!r} needs {', '.join(missing)}, got {', '.join(rope)}")
    return rope


def _outside(model: Fields, family: Family, layer_type: str | None) -> dict[str, Any]:
    """Returns the fields of a RoPE dictionary that are written outside it, or else assumed by the family."""
    layer = family.layers.get(layer_type, Layer("rope_theta", family.theta, scaled=True))
    fields = {
        "rope_theta": (model.get(layer.theta_field), model.get("rotary_emb_base"), layer.theta),
        "partial_rotary_factor": (model.get("partial_rotary_factor"), model.get("rotary_pct"), family.partial),
    }
    return {name: next(v for v in values if v is not None) for name, values in fields.items() if set(values) != {None}}


def _head_dim(model: Fields, family: Family, layer_type: str | None) -> int | None:
    """Returns the channels of a head as the configuration says them, or None."""
    overrides = model.get("per_layer_config") or {}
    widths = {
        fields["head_dim"]
        for layer, fields in overrides.items()
        if "head_dim" in fields and model["layer_types"][int(layer)] == layer_type
    }
    if len(widths) > 1:
        raise ValueError(f"layers of type {layer_type!r} have heads of {sorted(widths)} channels: give head_dim")
    if layer_type == "full_attention" and not overrides:
        widths = {model.get("global_head_dim", family.global_head_dim)} - {None}
    if widths:
        return widths.pop()
    if model.get("head_dim") or not (model.get("hidden_size") and model.get("num_attention_heads")):
        return model.get("head_dim")
    return model["hidden_size"] // model["num_attention_heads"]


def _rotary_dim(rope: Fields | None, model: Fields, head_dim: int | None) -> int:
    """Returns the channels of a head that have frequencies: as the model states them, or a part of the head."""
    stated = model.get("qk_rope_head_dim") or model.get("rotary_dim")
    if head_dim is None and stated is None:
        raise ValueError("no head_dim, nor hidden_size and num_attention_heads, in the configuration: give head_dim")
    partial = 1.0 if rope is None or rope["rope_type"] == "proportional" else rope["partial_rotary_factor"]
    if stated is None:
        return int(head_dim * partial)
    if head_dim is not None and partial != 1 and int(head_dim * partial) != stated:
        raise ValueError(f"the configuration has {stated} channels rotate, but also {partial} of {head_dim} channels")
    return stated


def _scaled(freqs: Spectrum, rope: Fields, length: Scalar | None) -> tuple[Spectrum, Scalar]:
    """Returns the frequencies scaled by rope_type, and the gain."""
    factor, original, longest = rope.get("factor", 1.0), rope.get(ORIGINAL), rope.get(LONGEST)
    match rope["rope_type"]:
        case "linear" | "proportional":
            freqs = scale_linear(freqs, factor)
        case "dynamic":
            length = longest if length is None else length
            freqs = scale_dynamic_ntk(freqs, factor, length=length, original_length=longest)
        case "llama3":
            turns = {name: rope[name] for name in ("low_freq_factor", "high_freq_factor")}
            freqs = scale_llama3(freqs, factor, original_length=original, **turns)
        case "yarn":
            betas = {"beta_fast": rope.get("beta_fast") or 32, "beta_slow": rope.get("beta_slow") or 1}
            freqs = scale_yarn(freqs, factor, original_length=original, truncate=rope.get("truncate", True), **betas)
        case "longrope":
            length = original if length is None else length
            factors = rope["short_factor"], rope["long_factor"]
            freqs = scale_longrope(freqs, *factors, length=length, original_length=original)
    return freqs, rope.get("attention_factor", _gain(rope))


def _gain(rope: Fields) -> Scalar:
    """Returns the gain that rope_type implies where no `attention_factor` is written."""
    match rope["rope_type"]:
        case "yarn":  # transformers uses the two mscales together or not at all
            mscales = [rope.get(name) for name in MSCALES]
            return yarn_gain(rope["factor"], *(mscales if all(mscales) else ()))
        case "longrope":
            return longrope_gain(rope["factor"], rope[ORIGINAL])
    return 1.0


def _dealt(freqs: Spectrum, rope: Fields, model_type: str | None, family: Family) -> Spectra:
    """Returns [A, F] where the dictionary has M-RoPE sections: the pairs are dealt to the axes of the positions."""
    sizes, strided = rope.get("mrope_section"), rope.get("mrope_interleaved")
    stated = strided_sections if strided else contiguous_sections
    if sizes is None and family.sections is None and strided is None:
        return freqs
    if sizes is None:
        raise ValueError(f"mrope_section is missing: model_type {model_type!r} deals rotary pairs to several axes")
    deal = stated if model_type is None else family.sections
    if deal is None or (strided is not None and deal is not stated):
        raise ValueError(
            f"mrope_section with mrope_interleaved={strided} is not what is known of model_type {model_type!r}; "
            "pass the RoPE dictionary alone"
        )
    return per_axis(freqs, deal(tuple(sizes)))
