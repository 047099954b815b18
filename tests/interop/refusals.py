"""How checkpoints are refused."""

import pytest

from roformer_jax.errors import InputError
from roformer_jax.interop.huggingface import read_checkpoint

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
QUERY = "roformer.encoder.layer.1.attention.self.query.weight"


def refusal(folder):
    """The message with which a checkpoint is refused; its files are untouched then, and no others are there."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError) as raised:
        read_checkpoint(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return str(raised.value)
