"""Foreign checkpoints and bad configurations are refused in words, and nothing is written."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from roformer_jax.errors import InputError
from roformer_jax.interop.configuration import SIZES
from roformer_jax.interop.huggingface import read_checkpoint, write_checkpoint
from tests.interop.conftest import GOLDEN
from tests.interop.refusals import CONFIG, QUERY, WEIGHTS, refusal


def change(folder, **fields):
    config = json.loads((folder / CONFIG).read_text()) | fields
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def replace(folder, **tensors):
    """Tensors by their names, with dots written as two underscores; None takes one out."""
    content = load_file(folder / WEIGHTS) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, folder / WEIGHTS)


class TestTensors:
    """A wrong, missing or extra tensor is named."""

    def test_missing(self, copied):
        folder = copied("masked_lm")
        replace(folder, **{QUERY: None})
        assert f"the tensor {QUERY} is missing; it should have the shape (8, 8)" in refusal(folder)

    def test_of_another_shape(self, copied):
        folder = copied("masked_lm")
        replace(folder, **{QUERY: np.zeros((8, 9), np.float32)})
        assert f"{QUERY} has the shape (8, 9), the configuration asks for (8, 8)" in refusal(folder)

    @pytest.mark.parametrize("dtype", [np.int32, np.float64, np.bool_, np.uint8])
    def test_of_another_type(self, copied, dtype):
        folder = copied("masked_lm")
        replace(folder, **{QUERY: np.zeros((8, 8), dtype)})
        assert f"{QUERY} holds {np.dtype(dtype).name}" in refusal(folder)

    def test_extra(self, copied):
        folder = copied("masked_lm")
        replace(folder, roformer__encoder__layer__2__output__dense__weight=np.zeros((8, 12), np.float32))
        assert "roformer.encoder.layer.2.output.dense.weight (8, 12) is no part of" in refusal(folder)

    def test_twice_under_two_names(self, copied):
        folder = copied("masked_lm")
        replace(folder, embeddings__LayerNorm__gamma=np.zeros(8, np.float32))
        assert "roformer.embeddings.LayerNorm.weight is there twice" in refusal(folder)

    @pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, copied, value, dtype):
        folder = copied("masked_lm")
        tensor = np.zeros((8, 8), dtype)
        tensor[3, 4] = value
        replace(folder, **{QUERY: tensor})
        assert f"{QUERY} holds a NaN or an infinity" in refusal(folder)

    def test_a_tied_copy_that_is_none(self, copied):
        folder = copied("masked_lm_with_copies")
        table = load_file(folder / WEIGHTS)["cls.predictions.decoder.weight"]
        replace(folder, cls__predictions__decoder__weight=table + 1)
        assert "cls.predictions.decoder.weight should repeat other tensors" in refusal(folder)

    def test_rotations_of_another_base(self, copied):
        folder = copied("masked_lm")
        name = "roformer.encoder.embed_positions.weight"
        table = load_file(folder / WEIGHTS)[name]
        replace(folder, **{name: table * 1.01})
        assert f"{name} should repeat other tensors, or be computed from positions" in refusal(folder)

    def test_rows_in_another_order(self, copied):
        folder = copied("bert_pretraining")
        name = "bert.embeddings.position_ids"
        replace(folder, **{name: load_file(folder / WEIGHTS)[name][:, ::-1].copy()})
        assert name in refusal(folder)


class TestConfigurations:
    """A config.json that lacks something, says something impossible, or describes another model than the tensors."""

    @pytest.mark.parametrize(
        "name",
        [*SIZES, "model_type", "architectures"],
    )
    def test_a_key_is_missing(self, copied, name):
        folder = copied("masked_lm")
        change(folder, **{name: ...})
        assert name in refusal(folder)

    @pytest.mark.parametrize("value", [None, "8", 8.5, True, [8], {}, -8, 0, 10**30, float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads"])
    def test_a_size_is_none(self, copied, name, value):
        folder = copied("masked_lm")
        change(folder, **{name: value})
        assert name in refusal(folder) or "shape" in refusal(folder)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("hidden_act", "gelu_new"), ("hidden_act", ["gelu"]), ("hidden_act", None), ("layer_norm_eps", "small"),
            ("layer_norm_eps", 0), ("hidden_dropout_prob", 1.5), ("rotary_value", "yes"), ("norm_type", "batch_norm"),
            ("use_bias", 1), ("tie_word_embeddings", None), ("type_vocab_size", -1), ("embedding_size", 0),
            ("is_decoder", True), ("position_embedding_type", "relative_key"), ("add_cross_attention", True),
            ("quantization_config", {"bits": 4}), ("max_position_embeddings", 0), ("model_type", "llama"),
            ("model_type", ["roformer"]), ("model_type", None), ("architectures", []), ("architectures", "RoFormer"),
            ("architectures", ["RoFormerForMaskedLM", "RoFormerModel"]), ("architectures", [1]),
            ("architectures", ["LlamaForCausalLM"]), ("architectures", ["RoFormerForPreTraining"]),
        ],
    )  # fmt: skip
    def test_a_field_asks_for_what_is_not_computed(self, copied, name, value):
        folder = copied("masked_lm")
        change(folder, **{name: value})
        message = refusal(folder)
        assert name in message and CONFIG in message

    @pytest.mark.parametrize("value", [{}, [], {"0": "a", "2": "b"}, {"a": "b"}, "red", 3])
    def test_labels_that_name_no_outputs(self, copied, value):
        folder = copied("classifier")
        change(folder, id2label=value)
        assert "id2label" in refusal(folder)

    @pytest.mark.parametrize("value", [0, -1, 10**9, "3", True])
    def test_a_number_of_labels_that_is_none(self, copied, value):
        folder = copied("classifier")
        change(folder, id2label=..., num_labels=value)
        assert "num_labels" in refusal(folder)

    def test_another_number_of_labels(self, copied):
        folder = copied("classifier")
        change(folder, id2label={"0": "red", "1": "green"})
        assert "classifier.out_proj.weight has the shape (3, 8), the configuration asks for (2, 8)" in refusal(folder)

    def test_another_vocabulary(self, copied):
        folder = copied("masked_lm")
        change(folder, vocab_size=23)
        message = refusal(folder)
        assert "roformer.embeddings.word_embeddings.weight has the shape (19, 8)" in message and "(23, 8)" in message

    @pytest.mark.parametrize(("name", "value"), [("summary_type", "first"), ("summary_activation", "tanh")])
    def test_another_summary_of_choices(self, copied, name, value):
        folder = copied("multiple_choice")
        change(folder, **{name: value})
        assert name in refusal(folder)

    def test_no_file(self, copied):
        folder = copied("masked_lm")
        (folder / CONFIG).unlink()
        assert f"{CONFIG}: cannot be read: No such file" in refusal(folder)

    @pytest.mark.parametrize("content", ["", "{", "[]", "3", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
    def test_no_object(self, copied, content):
        folder = copied("masked_lm")
        (folder / CONFIG).write_text(content)
        assert CONFIG in refusal(folder)


class TestOtherArchitectures:
    """Tensors of one model under the configuration of another."""

    @pytest.mark.parametrize(
        ("tensors", "config"),
        [
            ("v2_masked_lm", "masked_lm_relu"), ("masked_lm_relu", "v2_masked_lm"), ("v2_encoder", "encoder"),
            ("encoder", "v2_encoder"), ("v2_classifier", "classifier"), ("classifier", "v2_classifier"),
            ("bert_masked_lm", "masked_lm"), ("masked_lm", "bert_masked_lm"), ("bert_encoder", "encoder"),
            ("encoder", "bert_encoder"), ("masked_lm", "encoder"), ("encoder", "masked_lm"),
            ("classifier", "token_classifier"), ("question_answering", "multiple_choice"),
            ("masked_lm_embedded", "masked_lm"), ("masked_lm", "masked_lm_embedded"),
            ("masked_lm", "masked_lm_untied"),
        ],
    )  # fmt: skip
    def test_one_as_another(self, copied, tensors, config):
        folder = copied(config)
        (folder / WEIGHTS).write_bytes((GOLDEN / tensors / WEIGHTS).read_bytes())
        message = refusal(folder)
        assert "is missing" in message or "is no part of" in message or "has the shape" in message

    def test_v2_as_v1_names_what_is_not_there(self, copied):
        folder = copied("masked_lm_relu")
        (folder / WEIGHTS).write_bytes((GOLDEN / "v2_masked_lm" / WEIGHTS).read_bytes())
        assert "roformer.embeddings.LayerNorm.weight is missing" in refusal(folder)

    def test_v1_as_v2_names_what_is_too_much(self, copied):
        folder = copied("v2_masked_lm")
        (folder / WEIGHTS).write_bytes((GOLDEN / "masked_lm_relu" / WEIGHTS).read_bytes())
        assert "is no part of the masked_lm model" in refusal(folder)

    def test_untied_weights_under_a_tied_configuration(self, copied):
        folder = copied("masked_lm")
        (folder / WEIGHTS).write_bytes((GOLDEN / "masked_lm_untied" / WEIGHTS).read_bytes())
        assert "cls.predictions.decoder" in refusal(folder)


class TestExport:
    """What cannot be exported leaves the folder empty."""

    def refusal(self, tmp_path, case, labels=(), **changes):
        (_, head, model, _), params, _ = read_checkpoint(GOLDEN / case)
        params = jax.tree.map(lambda array: array * np.float32(changes.get("times", 1)), params)
        with pytest.raises(InputError) as raised:
            write_checkpoint(tmp_path, model, head, params, labels=labels)
        assert not list(tmp_path.iterdir())
        return str(raised.value)

    def test_parameters_that_are_not_finite(self, tmp_path):
        assert "word_embeddings.weight holds a NaN" in self.refusal(tmp_path, "masked_lm", times=np.nan)

    def test_other_labels_than_outputs(self, tmp_path):
        message = self.refusal(tmp_path, "classifier", labels=("a", "b"))
        assert "the classifier has 3 outputs, but there are 2 labels" in message
        assert "4 outputs, but there are 0 labels" in self.refusal(tmp_path, "token_classifier")
