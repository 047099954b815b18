"""Damaged, hostile and missing files of tensors are refused in words; nothing of them is executed."""

import json
import pickle
import struct

import jax
import numpy as np
import pytest

from roformer_jax.errors import InputError
from roformer_jax.interop.huggingface import read_checkpoint
from tests.interop.conftest import GOLDEN
from tests.interop.refusals import INDEX, QUERY, WEIGHTS, refusal


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
