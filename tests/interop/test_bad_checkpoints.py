"""Damaged, hostile and foreign checkpoints are refused in words; nothing of them is executed and nothing is written."""

import json
import pickle
import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from roformer_jax.errors import InputError
from roformer_jax.interop.configuration import SIZES
from roformer_jax.interop.huggingface import read_checkpoint, write_checkpoint
from tests.interop.conftest import GOLDEN

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
QUERY = "roformer.encoder.layer.1.attention.self.query.weight"


def refusal(folder):
    """The message with which a checkpoint is refused; its files are untouched then, and no others are there."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError) as raised:
        read_checkpoint(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return str(raised.value)


def change(folder, **fields):
    config = json.loads((folder / CONFIG).read_text()) | fields
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def replace(folder, **tensors):
    """Tensors by their names, with dots written as two underscores; None takes one out."""
    content = load_file(folder / WEIGHTS) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, folder / WEIGHTS)


def with_header(header, content=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + content


HOSTILE = {
    "empty": b"",
    "half a length": b"\x10\x00",
    "a header longer than the file": struct.pack("<Q", 1 << 20) + b"{}",
    "a header of exabytes": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "a header that is no JSON": with_header(b"not json"),
    "a header that is no UTF-8": with_header(b'{"\xff": 1}'),
    "a header that is a list": with_header([1, 2]),
    "nested too deep": with_header(b"[" * 100_000),
    "offsets out of the file": with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(8)),
    "offsets backwards": with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, bytes(16)),
    "overlapping tensors": with_header(
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}, bytes(8)
    ),
    "a shape beyond its bytes": with_header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, bytes(8)),
    "a shape that overflows": with_header(
        {"a": {"dtype": "F32", "shape": [1 << 32, 1 << 32, 4], "data_offsets": [0, 0]}}
    ),
    "a type that does not exist": with_header({"a": {"dtype": "F9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "a type without NumPy": with_header({"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, bytes(8)),
    "bytes behind the tensors": with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(99)),
    "a page of the web": b"<!DOCTYPE html><html>Not found</html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
    "a zip archive": b"PK\x03\x04" + bytes(64),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_safetensors_file(copied, content):
    folder = copied("masked_lm")
    (folder / WEIGHTS).write_bytes(content)
    assert f"{WEIGHTS} is damaged, or no safetensors file" in refusal(folder)


@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_file(copied, tenth):
    folder = copied("masked_lm")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) * tenth // 10])
    assert f"{WEIGHTS} is damaged, or no safetensors file" in refusal(folder)


def test_flipped_bits_in_the_header_are_refused_or_change_nothing(copied):
    """A safetensors file has no checksum: bits of the numbers themselves cannot be checked, those of the header can."""
    folder = copied("encoder")
    whole = (folder / WEIGHTS).read_bytes()
    expected = jax.tree.leaves(read_checkpoint(GOLDEN / "encoder").params)
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.choice(end, 60, replace=False):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(8)
        (folder / WEIGHTS).write_bytes(damaged)
        try:
            found = jax.tree.leaves(read_checkpoint(folder).params)
        except InputError:
            refused += 1
        else:  # in "format": "pt", or a space
            assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert refused > 50


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "..", "sub/model.safetensors", "model.bin", "", "a\0.safetensors"]
)
def test_an_index_that_names_files_elsewhere(copied, name):
    folder = copied("masked_lm_sharded")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][QUERY] = name
    (folder / INDEX).write_text(json.dumps(index))
    message = refusal(folder)
    assert INDEX in message and ("beside the index" in message or "missing" in message)


@pytest.mark.parametrize("weight_map", [..., None, [], "model.safetensors", {"a": 1}, {"a": ["b"]}])
def test_an_index_without_a_map(copied, weight_map):
    folder = copied("masked_lm_sharded")
    (folder / INDEX).write_text(json.dumps({} if weight_map is ... else {"weight_map": weight_map}))
    assert "no weight_map" in refusal(folder)


def test_a_missing_shard(copied):
    folder = copied("masked_lm_sharded")
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in refusal(folder)


def test_an_index_and_shards_that_do_not_agree(copied):
    folder = copied("masked_lm_sharded")
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][QUERY]
    (folder / INDEX).write_text(json.dumps(index))
    assert f"do not agree: {QUERY} is in the file alone" in refusal(folder)


def test_an_index_of_no_tensors(copied):
    folder = copied("masked_lm_sharded")
    (folder / INDEX).write_text('{"weight_map": {}}')
    assert "word_embeddings.weight is missing" in refusal(folder)


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


class Tripwire:
    """What a pickle may hold: anything that runs when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_a_pickle_is_refused_with_the_command_that_converts_it_and_not_executed(copied, tmp_path, name):
    folder = copied("masked_lm")
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Tripwire(tmp_path / "executed")))
    message = refusal(folder)
    assert "is a pickle" in message and "weights_only=True" in message
    assert f"{folder / WEIGHTS} {folder / name}" in message
    assert not (tmp_path / "executed").exists()


def test_a_pickle_under_the_name_of_a_safetensors_file_is_not_executed(copied, tmp_path):
    folder = copied("masked_lm")
    (folder / WEIGHTS).write_bytes(pickle.dumps(Tripwire(tmp_path / "executed")))
    assert "is damaged, or no safetensors file" in refusal(folder)
    assert not (tmp_path / "executed").exists()


def test_a_folder_without_weights(copied):
    folder = copied("masked_lm")
    (folder / WEIGHTS).unlink()
    assert f"holds neither {WEIGHTS} nor {INDEX}" in refusal(folder)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder with a checkpoint"):
        read_checkpoint(tmp_path / "nothing")


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
