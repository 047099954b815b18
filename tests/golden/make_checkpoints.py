"""Checkpoints as transformers' PyTorch RoFormer and BERT save them, of seeded random weights, and what they compute.

    pip install "torch==2.13.0" "transformers==5.23.0"      # an environment of its own: `make test-peers` makes one
    python tests/golden/make_checkpoints.py                 # writes tests/golden/checkpoints

A folder for each case (config.json, safetensors), and expected.npz with the inputs, and each case's outputs at every
real token, example or choice. Nothing of roformer_jax is imported here. RoFormerV2, which transformers does not have,
is its RoFormer without the biases in the blocks, with JunnyU's norm in place of LayerNorm, and with the decoder alone
as language-model head; config.json and tensor names as JunnyU's package `roformer` 0.4.3 has them. Other sizes and
seeds can be asked for.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from make_roformer import inputs, perturbed
from safetensors.torch import load_file, save_file

SIZES = {
    "vocab_size": 19,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 18,
    "type_vocab_size": 2,
}
NARROW = 6  # an embedding_size
LENGTHS = (1, 5, 11)
SEED = 2104
V2 = {"norm_type": "rms_norm", "use_bias": False, "hidden_act": "relu"}
COLOURS = {"id2label": {0: "red", 1: "green", 2: "blue"}, "label2id": {"red": 0, "green": 1, "blue": 2}}
CAUSAL, UNTIED, EMBEDDED = {"is_decoder": True}, {"tie_word_embeddings": False}, {"embedding_size": NARROW}

Tensors = dict[str, torch.Tensor]


class Case(NamedTuple):
    """A checkpoint: its class in transformers, what its configuration adds to the sizes, and how it is saved."""

    architecture: str
    fields: Mapping[str, Any] = MappingProxyType({})
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"
    renamed: Callable[[Tensors], Tensors] = lambda tensors: tensors


def without_positions(tensors: Tensors) -> Tensors:
    """As transformers saved RoFormer for years: the rotations are computed, not stored."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("embed_positions.weight")}


def with_copies(tensors: Tensors) -> Tensors:
    """As a converted pickle: tied tensors are there under both names."""
    table, bias = tensors["roformer.embeddings.word_embeddings.weight"], tensors["cls.predictions.bias"]
    return tensors | {"cls.predictions.decoder.weight": table.clone(), "cls.predictions.decoder.bias": bias.clone()}


def first_names(tensors: Tensors) -> Tensors:
    """As Google's BERT was converted: TensorFlow's names of a norm's scale and bias, and the stored row numbers."""
    rows = tensors["bert.embeddings.position_embeddings.weight"].shape[0]
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    return renamed | {"bert.embeddings.position_ids": torch.arange(rows)[None]}


CASES = {
    "encoder": Case("RoFormerModel"),
    "masked_lm": Case("RoFormerForMaskedLM"),
    "masked_lm_untied": Case("RoFormerForMaskedLM", UNTIED),
    "masked_lm_embedded": Case("RoFormerForMaskedLM", EMBEDDED),
    "masked_lm_embedded_untied": Case("RoFormerForMaskedLM", EMBEDDED | UNTIED),
    "masked_lm_rotary_value": Case("RoFormerForMaskedLM", EMBEDDED | {"rotary_value": True}),
    "masked_lm_relu": Case("RoFormerForMaskedLM", {"hidden_act": "relu"}),
    "masked_lm_without_positions": Case("RoFormerForMaskedLM", renamed=without_positions),
    "masked_lm_with_copies": Case("RoFormerForMaskedLM", renamed=with_copies),
    "masked_lm_sharded": Case("RoFormerForMaskedLM", shard="2KB"),
    "masked_lm_bfloat16": Case("RoFormerForMaskedLM", dtype=torch.bfloat16),
    "masked_lm_float16": Case("RoFormerForMaskedLM", dtype=torch.float16),
    "causal_lm": Case("RoFormerForCausalLM", CAUSAL),
    "causal_lm_untied": Case("RoFormerForCausalLM", CAUSAL | UNTIED),
    "causal_lm_embedded": Case("RoFormerForCausalLM", CAUSAL | EMBEDDED | {"rotary_value": True}),
    "classifier": Case("RoFormerForSequenceClassification", COLOURS),
    "classifier_embedded": Case("RoFormerForSequenceClassification", EMBEDDED),
    "regression": Case("RoFormerForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "multiple_choice": Case("RoFormerForMultipleChoice"),
    "token_classifier": Case("RoFormerForTokenClassification", {"num_labels": 4}),
    "question_answering": Case("RoFormerForQuestionAnswering"),
    "v2_encoder": Case("RoFormerModel", V2),
    "v2_masked_lm": Case("RoFormerForMaskedLM", V2),
    "v2_masked_lm_untied": Case("RoFormerForMaskedLM", V2 | UNTIED),
    "v2_causal_lm": Case("RoFormerForCausalLM", V2 | CAUSAL),
    "v2_causal_lm_untied": Case("RoFormerForCausalLM", V2 | CAUSAL | UNTIED),
    "v2_classifier": Case("RoFormerForSequenceClassification", V2 | COLOURS),
    "v2_classifier_embedded": Case("RoFormerForSequenceClassification", V2 | EMBEDDED),
    "v2_multiple_choice": Case("RoFormerForMultipleChoice", V2),
    "v2_token_classifier": Case("RoFormerForTokenClassification", V2 | {"num_labels": 4}),
    "v2_question_answering": Case("RoFormerForQuestionAnswering", V2),
    "bert_encoder": Case("BertModel"),
    "bert_masked_lm": Case("BertForMaskedLM"),
    "bert_masked_lm_untied": Case("BertForMaskedLM", UNTIED),
    "bert_pretraining": Case("BertForPreTraining", renamed=first_names),
    "bert_classifier": Case("BertForSequenceClassification"),
}


class Norm(torch.nn.Module):
    """RoFormerV2's norm: the root of the mean square, without a scale."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x over the root of its mean square."""
        return x / torch.sqrt(torch.mean(torch.square(x), dim=-1, keepdim=True) + self.eps)


def as_v2(model: torch.nn.Module) -> torch.nn.Module:
    """transformers' RoFormer made a RoFormerV2."""
    if hasattr(model, "cls"):
        model.cls.predictions.transform = torch.nn.Identity()
        model.cls.predictions.decoder.bias = None
        del model.cls.predictions.bias
    for layer in getattr(model, "roformer", model).encoder.layer:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                module.bias = None
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, Norm(child.eps))
    return model


def make_model(case: Case, sizes: dict[str, int], seed: int) -> torch.nn.Module:
    """The case's model with every parameter random."""
    torch.manual_seed(seed)
    kind = transformers.BertConfig if case.architecture.startswith("Bert") else transformers.RoFormerConfig
    model = getattr(transformers, case.architecture)(kind(**sizes, **case.fields))
    return perturbed(as_v2(model) if "norm_type" in case.fields else model).to(case.dtype)


def save(model: torch.nn.Module, case: Case, folder: Path) -> None:
    """The files of the checkpoint."""
    if "norm_type" not in case.fields:
        model.save_pretrained(folder, max_shard_size=case.shard)
    else:  # as JunnyU's package saved them: tied tensors twice, no rotations
        model.config.architectures = [case.architecture]
        model.config.save_pretrained(folder)
        tensors = without_positions({name: tensor.clone() for name, tensor in model.state_dict().items()})
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if case.renamed is not Case._field_defaults["renamed"]:
        tensors = case.renamed(load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def with_exact_rotations(model: torch.nn.Module) -> torch.nn.Module:
    """The model as it is when its rotations are computed in float32, whatever type they were saved in."""
    for module in model.modules():
        if hasattr(module, "create_weight"):
            module.weight.copy_(module.create_weight())
    return model


def outputs(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> np.ndarray:
    """What the model computes, in float32: of every real token [T, ...], or of every row [B, ...]."""
    model = with_exact_rotations(model.float())
    real = batch["mask"].astype(bool)
    tensors = {
        "input_ids": torch.tensor(batch["ids"]),
        "attention_mask": torch.tensor(batch["mask"]),
        "token_type_ids": torch.tensor(batch["token_type_ids"]),
    }
    if type(model).__name__ == "RoFormerForCausalLM":  # of one text
        del tensors["token_type_ids"]
    with torch.no_grad():
        if "MultipleChoice" in type(model).__name__:  # reads the last place of a row, padding or not: row by row
            alone = [
                model(**{name: tensor[row : row + 1, None, : int(length)] for name, tensor in tensors.items()}).logits
                for row, length in enumerate(real.sum(axis=1))
            ]
            return torch.cat(alone).numpy()
        if type(model).__name__ == "BertForSequenceClassification":  # its head is not ours
            return model.bert(**tensors).last_hidden_state.numpy()[real]
        out = model(**tensors)
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1).numpy()[real]
    for name in ("logits", "prediction_logits", "last_hidden_state"):
        if name in out:
            found = out[name].numpy()
            return found[real] if found.ndim == 3 else found
    raise ValueError(f"{type(model).__name__} has no outputs known here")


def make(folder: Path, cases: Sequence[str], sizes: dict[str, int], lengths: Sequence[int], seed: int) -> None:
    """All files."""
    batch = inputs(np.random.default_rng(seed), sizes["vocab_size"], lengths)
    arrays = {f"inputs/{name}": value for name, value in batch.items()}
    for name in cases:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        model = make_model(CASES[name], sizes, seed + list(CASES).index(name))
        save(model, CASES[name], folder / name)
        arrays[f"outputs/{name}"] = outputs(model, batch)
    np.savez_compressed(folder / "expected.npz", **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("checkpoints"), help="folder to write")
    parser.add_argument("--sizes", type=json.loads, default=SIZES, help="fields of the configurations, as JSON")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of each row")
    parser.add_argument("--seed", type=int, default=SEED, help="of weights and inputs")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which checkpoints")
    options = parser.parse_args()
    make(options.output, options.cases, options.sizes, options.lengths, options.seed)
    written = [path for path in options.output.rglob("*") if path.is_file()]
    print(f"wrote {options.output}: {len(written)} files, {sum(path.stat().st_size for path in written):,} bytes")
