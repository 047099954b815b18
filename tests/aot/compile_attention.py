"""Compiles softmax attention for devices that are not there: `compile_attention.py v5e|h100` prints JSON.

A process of its own, with JAX_PLATFORMS=cpu: the compilers are found and set up when JAX is imported.
"""

import json
import sys
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

import jax
from jax.experimental import topologies

from benchmarks import rope_aot
from roformer_jax.attention import dot_product_attention
from roformer_jax.sharding import MeshConfig, make_mesh

LENGTHS = 4096, 8192
HEADS, KV_HEADS, HEAD_DIM, ROWS = 8, 4, 64, 4


def h100():
    """The devices of a machine with one H100, from its description."""
    description = Path(__file__).with_name("h100.txtpb").read_text(encoding="utf-8")
    return topologies.get_topology_desc("h100", "cuda", target_config=description, topology="1x1x1").devices


def both(implementation, q, k, v, segment_ids):
    """Forward and backward pass."""
    attention = partial(dot_product_attention, segment_ids=segment_ids, causal=True, implementation=implementation)
    out, pullback = jax.vjp(attention, q, k, v)
    return out, pullback(out)


def compiled(devices, implementation, length):
    """Compiles for packed rows in bfloat16, split over the devices of an explicit mesh."""
    mesh = make_mesh(MeshConfig(tensor=2 if len(devices) > 1 else 1), devices)
    tokens, heads = (jax.NamedSharding(mesh, jax.P("data", None, *rest)) for rest in ((), ("tensor", None)))
    q, k = (
        jax.ShapeDtypeStruct((ROWS, length, count, HEAD_DIM), "bfloat16", sharding=heads) for count in (HEADS, KV_HEADS)
    )
    ids = jax.ShapeDtypeStruct((ROWS, length), "int32", sharding=tokens)
    with jax.set_mesh(mesh):
        return jax.jit(partial(both, implementation)).lower(q, k, k, ids).compile()


def main():
    """Prints name and length -> program and temporary memory."""
    devices = (
        h100() if sys.argv[1] == "h100" else topologies.get_topology_desc(rope_aot.TPUS[sys.argv[1]], "tpu").devices
    )
    found = {}
    for name, length in ((None, LENGTHS[0]), *(("blockwise", length) for length in LENGTHS)):
        program = compiled(devices, name, length)
        memory = program.memory_analysis().temp_size_in_bytes
        found[f"{name or 'default'} {length}"] = {"hlo": program.as_text(), "temporary_bytes": memory}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
