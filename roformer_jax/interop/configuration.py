"""Hugging Face's config.json as a model of ours with a head, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from roformer_jax.errors import InputError
from roformer_jax.fields import fits, in_words
from roformer_jax.models import Head, RoFormerConfig

# Our head -> the end of the class names of transformers; "ForPreTraining" is BERT's masked LM with a second head.
HEADS: dict[Head, str] = {
    "encoder": "Model",
    "masked_lm": "ForMaskedLM",
    "causal_lm": "ForCausalLM",
    "classifier": "ForSequenceClassification",
    "multiple_choice": "ForMultipleChoice",
    "token_classifier": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
}
FAMILIES = {"roformer": "RoFormer", "bert": "Bert"}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
# Fields of both configurations under one name, and transformers' values where a config.json leaves them out.
SHARED = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
}
ROFORMER = {  # of JunnYu's configuration of RoFormerV2 the last two
    "embedding_size": None,
    "rotary_value": False,
    "max_position_embeddings": 1536,
    "norm_type": "layer_norm",
    "use_bias": True,
}
BERT = {"max_position_embeddings": 512}
# Fields that would change what a model computes, and the only values under which they do not.
INERT = {"position_embedding_type": "absolute", "add_cross_attention": False, "quantization_config": None}
SUMMARY = {"summary_type": "last", "summary_use_proj": False, "summary_activation": None}  # of multiple choice
LARGEST = 2**31 - 1  # whole number: beyond it, counts of elements overflow
# What transformers has no RoFormer or BERT for, and the only values that it computes.
EXPORTED = {"attention": "softmax", "rope_theta": 10_000.0, "rope_scaling": "none"}


class Description(NamedTuple):
    """What a config.json says."""

    family: str
    """Hugging Face's model_type: "roformer" or "bert"."""
    head: Head
    model: RoFormerConfig
    labels: tuple[str, ...]
    """Names of a head's outputs, in their order; empty where its number of outputs is fixed."""


def described(config: Mapping[str, Any], source: str) -> Description:
    """The model that a config.json describes.

    Raises:
      InputError: another architecture, a field that is missing or out of range, or one that asks for what we do not
        compute; `source` names the file.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InputError(f"{source}: model_type = {family!r} is another architecture; read are {', '.join(FAMILIES)}")
    missing = [name for name in SIZES if name not in config]
    if missing:
        raise InputError(f"{source} lacks {', '.join(missing)}")
    head = _head(config, family, source)
    for name, value in (INERT | (SUMMARY if head == "multiple_choice" else {})).items():
        if config.get(name, value) != value:
            raise InputError(f"{source}: {name} = {config[name]!r} is not computed here; only {value!r} is")
    fields = SHARED | (ROFORMER if family == "roformer" else BERT)
    values = {name: config[name] for name in SIZES} | {name: config.get(name, value) for name, value in fields.items()}
    if values.get("embedding_size") == values["hidden_size"]:
        values["embedding_size"] = None
    hints = get_type_hints(RoFormerConfig)
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise InputError(f"{source}: {name} = {value!r} must be {in_words(hints[name])}")
        if isinstance(value, int) and value > LARGEST:
            raise InputError(f"{source}: {name} = {value} is more than any model has")
        if hints[name] is float:  # JSON has 0 for 0.0
            values[name] = float(value)
    values["position_encoding"] = "rope" if family == "roformer" else "learned"
    try:
        model = RoFormerConfig(**values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if config.get("is_decoder", False) != (head == "causal_lm"):
        raise InputError(f"{source}: is_decoder = {config.get('is_decoder', False)} does not go with {HEADS[head]}")
    return Description(
        family, head, model, _labels(config, source) if head in ("classifier", "token_classifier") else ()
    )


def configuration(model: RoFormerConfig, head: Head, labels: tuple[str, ...], length: int) -> dict[str, Any]:
    """The config.json of a model of ours; the inverse of `described`.

    Args:
      model: the model.
      head: its head.
      labels: names of the outputs of a classifier; empty for a regression.
      length: tokens of the longest row; transformers makes a table of so many positions at least.

    Raises:
      InputError: transformers has no such model; the message names the field.
    """
    family = family_of(model, head)
    fields = SIZES + tuple(SHARED | (ROFORMER if family == "roformer" else BERT))
    config: dict[str, Any] = {name: getattr(model, name) for name in fields}
    if family == "roformer":
        config["max_position_embeddings"] = max(model.max_position_embeddings, length)
        config["embedding_size"] = model.embedding_width
        if (model.norm_type, model.use_bias) == ("layer_norm", True):
            del config["norm_type"], config["use_bias"]  # JunnYu's names, which transformers does not know
    config["type_vocab_size"] = max(model.type_vocab_size, 1)
    config |= {"model_type": family, "architectures": [FAMILIES[family] + HEADS[head]]}
    config |= {"is_decoder": head == "causal_lm", "pad_token_id": 0, "torch_dtype": "float32"}
    if head in ("classifier", "token_classifier"):
        names = labels or ("LABEL_0",)
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
        if head == "classifier" and not labels:
            config["problem_type"] = "regression"
    return config


def family_of(model: RoFormerConfig, head: Head) -> str:
    """Which of transformers' families computes this model.

    Raises:
      InputError: none does; the message names the field.
    """
    for name, value in EXPORTED.items():
        if getattr(model, name) != value:
            raise InputError(f"model.{name} = {getattr(model, name)}: transformers has no such RoFormer, only {value}")
    if model.position_encoding == "rope":
        if head == "classifier" and model.classifier_pooling != "cls":
            raise InputError("model.classifier_pooling = mean: transformers' RoFormer classifies by [CLS] alone")
        return "roformer"
    plain = (model.norm_type, model.use_bias, model.embedding_width) == ("layer_norm", True, model.hidden_size)
    if model.position_encoding == "learned" and head in ("encoder", "masked_lm") and plain:
        return "bert"
    raise InputError(
        f"model.position_encoding = {model.position_encoding} with the head {head}: transformers has no such RoFormer; "
        "it has rope, and learned positions in BERT's encoder and masked LM"
    )


def _head(config: Mapping[str, Any], family: str, source: str) -> Head:
    """The head that `architectures` names."""
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise InputError(f'{source}: architectures = {names!r} must name one class, such as ["RoFormerForMaskedLM"]')
    end = names[0].removeprefix(FAMILIES[family])
    if family == "bert":  # BERT's other heads are not ours: their pooler is left out, and told
        return "masked_lm" if end in ("ForMaskedLM", "ForPreTraining") else "encoder"
    heads = {name: head for head, name in HEADS.items()}
    if end not in heads:
        raise InputError(f"{source}: architectures = {names} is none of {', '.join('RoFormer' + end for end in heads)}")
    return heads[end]


def _labels(config: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """Names of the outputs, in order; transformers' own where there are none."""
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < 10_000:
            raise InputError(f"{source}: num_labels = {count!r} must be a whole number from 1 on")
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(names, dict) or sorted(names) != sorted(str(i) for i in range(len(names))) or not names:
        raise InputError(f"{source}: id2label must give a name to every output 0, 1, ...; found {names!r}")
    return tuple(str(names[str(i)]) for i in range(len(names)))
