"""Compiles the rotation for TPUs that are not there, and prints what the compiler says of it: estimates, not timings.

    python -m benchmarks.rope_aot [--json]

Bytes are XLA's "bytes accessed", cycles the sum of its estimates for the operations of the program; a Pallas kernel has
the bytes that it declares and no estimate of cycles. Every form is compiled alone, with the layouts in memory of a
program's arguments and results; alone, with layouts that the compiler chooses, as it does inside a program; and
between the projection that makes the queries and a kernel that reads them heads first. `libtpu` must be installed
beside the environment, as `make test` does.
"""

import argparse
import functools
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
sys.path.append(str(Path(sys.prefix) / "aot"))

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout

from roformer_jax import rope

BATCH, LENGTH, HEADS, WIDTH = 4, 1024, 16, 2048
TPUS = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
DTYPES = ("bfloat16", "float32")
LAYOUTS = ("half", "interleaved", "interleaved_to_half")
FLOOR = "x * 2"


def split(x, table):
    """Half layout, as gemma, praxis and others write it, at its best: slices and concatenates in the dtype of x."""
    real, imaginary = (part.astype(jnp.float32) for part in jnp.split(x, 2, axis=-1))
    cos, sin = (part[:, None] for part in table)
    rotated = (real * cos - imaginary * sin, real * sin + imaginary * cos)
    return jnp.concatenate([part.astype(x.dtype) for part in rotated], axis=-1)


def roll(x, table):
    """Half layout, with the tables of both halves."""
    cos, sin = (jnp.concatenate(pair, -1)[:, None] for pair in ([table.cos] * 2, [-table.sin, table.sin]))
    x32 = x.astype(jnp.float32)
    return (x32 * cos + jnp.roll(x32, x.shape[-1] // 2, axis=-1) * sin).astype(x.dtype)


def flip(x, table):
    """Interleaved layout: flipped pairs, repeated tables."""
    cos, sin = (jnp.stack(pair, -1).reshape(LENGTH, 1, -1) for pair in ([table.cos] * 2, [-table.sin, table.sin]))
    flipped = jnp.flip(x.reshape(*x.shape[:-1], -1, 2), -1).reshape(x.shape)
    return (x.astype(jnp.float32) * cos + flipped.astype(jnp.float32) * sin).astype(x.dtype)


def forms(layout: str) -> dict[str, Callable]:
    """Name -> function of x and the table: what others write, and every implementation here."""
    others = {"half": {"split": split, "roll": roll}, "interleaved": {"flip": flip}}.get(layout, {})
    ours = {
        name or "default": functools.partial(rope.rotate, layout=layout, implementation=name)
        for name in ("stack", "matmul", "pallas", None)
    }
    return {FLOOR: lambda x, table: x * 2} | others | ours


def tpu(name: str) -> jax.sharding.SingleDeviceSharding:
    """Returns one device of a TPU that need not be there."""
    return jax.sharding.SingleDeviceSharding(topologies.get_topology_desc(TPUS[name], "tpu").devices[0])


def compile_for(device: jax.sharding.Sharding, function: Callable, *arguments, free: bool = False, donate=()):
    """Compiles a function of arrays of those shapes; `free` lets the compiler choose their layouts in memory."""
    place = Format(Layout.AUTO, device) if free else device
    sharding = None if free else device
    shaped = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), arguments)
    return jax.jit(function, in_shardings=place, out_shardings=place, donate_argnums=donate).lower(*shaped).compile()


def summary(compiled) -> dict[str, float]:
    """Megabytes accessed, thousands of cycles, fusions and copies of a compiled program."""
    text = compiled.as_text()
    entry = text[text.index("ENTRY") :]
    return {
        "MB": compiled.cost_analysis()["bytes accessed"] / 1e6,
        "kcycles": sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry))) / 1e3,
        "fusions": len(re.findall(r" fusion\(", entry)),
        "copies": len(re.findall(r" copy\(| copy-start\(", entry)),
    }


def shapes(dtype: str, head_dim: int) -> tuple[jax.ShapeDtypeStruct, rope.Rotation]:
    """Queries and the table of their positions."""
    part = jax.ShapeDtypeStruct((LENGTH, head_dim // 2), jnp.float32)
    return jax.ShapeDtypeStruct((BATCH, LENGTH, HEADS, head_dim), dtype), rope.Rotation(part, part)


def between_projection_and_kernel(form: Callable, head_dim: int) -> Callable:
    """Returns the function that projects, rotates and puts heads first."""

    def function(hidden, kernel, table):
        x_BLHD = (hidden @ kernel).reshape(BATCH, LENGTH, HEADS, head_dim)
        return form(x_BLHD, table).swapaxes(1, 2)

    return function


def measure(device: jax.sharding.Sharding, form: Callable, dtype: str, head_dim: int) -> dict[str, dict[str, float]]:
    """Place -> summary."""
    x, table = shapes(dtype, head_dim)
    hidden = jax.ShapeDtypeStruct((BATCH, LENGTH, WIDTH), dtype)
    kernel = jax.ShapeDtypeStruct((WIDTH, HEADS * head_dim), dtype)

    def backward(x, table, cotangent):
        return jax.vjp(lambda x: form(x, table), x)[1](cotangent)

    programs = {
        "alone": compile_for(device, form, x, table, donate=(0,)),  # a kernel works in place, or pays for a copy
        "alone, vjp": compile_for(device, backward, x, table, x),
        "free layouts": compile_for(device, form, x, table, free=True),
        "projected": compile_for(device, between_projection_and_kernel(form, head_dim), hidden, kernel, table),
    }
    return {place: summary(program) for place, program in programs.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    parser.add_argument("--head-dim", type=int, default=128, help="channels of a head (default 128)")
    arguments = parser.parse_args()
    places = ("alone", "alone, vjp", "free layouts", "projected")
    if not arguments.json:
        print("| device | dtype | layout | form | " + " | ".join(f"{place}: MB, kcycles" for place in places) + " |")
        print("| --- " * (4 + len(places)) + "|")
    for name in TPUS:
        device = tpu(name)
        for dtype in DTYPES:
            for layout in LAYOUTS:
                for form_name, form in forms(layout).items():
                    found = measure(device, form, dtype, arguments.head_dim)
                    labels = {"device": name, "dtype": dtype, "layout": layout, "form": form_name}
                    if arguments.json:
                        print(json.dumps(labels | found), flush=True)
                    else:
                        cells = [f"{found[place]['MB']:.0f}, {found[place]['kcycles']:.0f}" for place in places]
                        print(f"| {' | '.join([*labels.values(), *cells])} |", flush=True)


if __name__ == "__main__":
    main()
