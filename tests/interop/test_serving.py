"""The files beside an exported program hold what the program is called with."""

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from roformer_jax.interop.serving import named_arrays


def test_parameters_survive_the_file_however_they_lie_in_memory(tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    params = {"encoder": {"kernel": kernel.T, "norm": {}}, "bias": kernel[0, ::2]}
    flat, structure = named_arrays(params)
    assert list(flat) == ["bias", "encoder.kernel"]
    save_file(flat, tmp_path / "params.safetensors")
    loaded = load_file(tmp_path / "params.safetensors")
    again = jax.tree.unflatten(structure, [loaded[name] for name in flat])
    jax.tree.map(np.testing.assert_array_equal, again, params)
