"""Compiles the rotation for a device that is not there: `python tests/aot/compile_rope.py v5e|v6e|h100` prints JSON.

A process of its own, with JAX_PLATFORMS=cpu: the compilers are found and set up when JAX is imported.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

import jax
from jax.experimental import topologies

from benchmarks import rope_aot
from roformer_jax import rope
from roformer_jax.rope.kernels import rotate_arrays
from roformer_jax.rope.layouts import read_and_written

HEAD_DIM, KEY_HEADS = 128, 16  # powers of two make the kernel's blocks as large as they get
FREQS = rope.frequencies(HEAD_DIM)
GRID_FREQS = rope.axial_frequencies(*[rope.frequencies(HEAD_DIM // 2)] * 2)


def h100():
    """One H100, from its description."""
    description = Path(__file__).with_name("h100.txtpb").read_text(encoding="utf-8")
    topology = topologies.get_topology_desc("h100", "cuda", target_config=description, topology="1x1x1")
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


def programs(device_name):
    """Name -> (function, shapes of its arguments)."""
    for dtype in rope_aot.DTYPES:
        for layout in rope_aot.LAYOUTS:
            q, table = rope_aot.shapes(dtype, HEAD_DIM)
            k = jax.ShapeDtypeStruct((*q.shape[:2], KEY_HEADS, HEAD_DIM), dtype)

            def rotate(q, k, table, layout=layout):
                return rope.rotate_qk(q, k, table, layout=layout)

            def reverse(q, k, table, rotate=rotate):
                return jax.vjp(lambda q, k: rotate(q, k, table), q, k)[1]((q, k))

            def kernel(q, k, table, layout=layout):
                cos, sin = (part[None, :, None] for part in table)
                return rotate_arrays((q, k), cos, sin, *read_and_written(layout))

            yield f"kernel {dtype} {layout}", kernel, (q, k, table)
            if device_name == "h100":
                yield f"default {dtype} {layout}", rotate, (q, k, table)
                yield f"vjp {dtype} {layout}", reverse, (q, k, table)
            elif dtype == "bfloat16":
                yield f"alone {layout}", rope_aot.forms(layout)["default"], (q, table)
    yield from projections()
    yield from positions_inside()


def projections():
    """The queries of a layer, rotated or not."""
    _, table = rope_aot.shapes("bfloat16", HEAD_DIM)
    hidden = jax.ShapeDtypeStruct((rope_aot.BATCH, rope_aot.LENGTH, rope_aot.WIDTH), "bfloat16")
    weights = jax.ShapeDtypeStruct((rope_aot.WIDTH, rope_aot.HEADS * HEAD_DIM), "bfloat16")
    for name, form in {"bare": lambda x, table: x, "rotated": rope_aot.forms("interleaved")["default"]}.items():
        yield f"projection {name}", rope_aot.between_projection_and_kernel(form, HEAD_DIM), (hidden, weights, table)


def positions_inside():
    """Tables made from positions in the program, of a text and of a grid, in float32."""
    q, _ = rope_aot.shapes("bfloat16", HEAD_DIM)
    text = jax.ShapeDtypeStruct(q.shape[:2], "int32")
    grid = jax.ShapeDtypeStruct((*q.shape[:2], 2), "int32")
    yield "text", lambda q, at: rope.rotate(q, rope.rotation(at, FREQS), layout="half"), (q, text)
    yield "grid", lambda at: rope.rotation(at, GRID_FREQS), (grid,)


def main():
    name = sys.argv[1]
    device = h100() if name == "h100" else rope_aot.tpu(name)
    # The Triton kernel of jax 0.12 asks the mesh for which GPU it is.
    mesh = jax.sharding.Mesh([*device.device_set], ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    found = {}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        for program, function, shapes in programs(name):
            donate = (0, 1) if program.startswith("kernel") else ()
            compiled = rope_aot.compile_for(device, function, *shapes, donate=donate)
            cost = compiled.cost_analysis() or {}
            found[program] = {"hlo": compiled.as_text(), "bytes": cost.get("bytes accessed")}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
