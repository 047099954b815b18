"""Hugging Face's Flax RoFormer: its masked-LM step compiled for TPUs that are not there, data parallel, bfloat16.

    python -m benchmarks.peers.tpu_step ROWS LENGTH LAYERS TOPOLOGY FILE

Says what the compiler says, per chip, and writes the compiled program as text into FILE.
"""

import os
import sys
import time
from pathlib import Path

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.peers.mlm_step import flax_training
from benchmarks.peers.process import answer, versions
from roformer_jax.planning.arithmetic import matmul_flops

GB = 1e9


def main() -> None:
    rows, length, layers = map(int, sys.argv[1:4])
    topology, file = sys.argv[4:]
    optimizer = optax.adamw(1e-4)
    model, step = flax_training(layers, "bfloat16", optimizer)
    devices = np.array(topologies.get_topology_desc(topology, platform="tpu").devices).reshape(-1)
    mesh = Mesh(devices, ("data",))

    def placed(tree, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    params = placed(model.params)
    opt_state = placed(jax.eval_shape(optimizer.init, model.params))
    batch = placed([jax.ShapeDtypeStruct((rows, length), jnp.int32)] * 3, "data")
    key = placed(jax.random.PRNGKey(0))
    start = time.monotonic()
    traced = jax.jit(step, donate_argnums=(0, 1)).trace(params, opt_state, *batch, key)
    compiled = traced.lower().compile()
    seconds = time.monotonic() - start
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    Path(file).write_text(compiled.as_text())
    found = {
        "compile_seconds": seconds,
        "TFLOP": matmul_flops(traced.jaxpr) / len(devices) / 1e12,
        "GB_temporaries": memory.temp_size_in_bytes / GB,
        "GB_state": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, opt_state))) / GB,
        "TFLOP_by_XLA": costs["flops"] / 1e12,
        "GB_accessed_by_XLA": costs["bytes accessed"] / GB,
    }
    answer(lambda request: None, about=found | versions("transformers", "jax", "libtpu"))


if __name__ == "__main__":
    main()
