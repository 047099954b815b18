"""Times the rotation beside other JAX implementations and beside `x * 2`, which moves the same bytes.

    python -m benchmarks.rope [--json] [--repeats 31]

Everything is compiled, and timed in turns in one process; a cell is the median of the repeats over the median of
`x * 2` (forward and backward: of `x * 2` and `cotangent * 2`). Ours with the table given, as a model has it, and with
positions given; Hugging Face's Flax forms (transformers 4.57, the last with Flax) with the table given. `flax.nnx.RoPE`
(flax 0.12.12, Python 3.12 or newer) and equinox, which know one layout, are measured where they are installed.
"""

import argparse
import functools
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from roformer_jax import rope

SHAPES = ((4, 1024, 16, 64), (1, 8192, 8, 128))  # batch, length, heads, head size
DTYPES = ("bfloat16", "float32")
OURS, OURS_POSITIONS, HUGGING_FACE = "ours, table given", "ours, positions given", "Hugging Face Flax"
COPY = "x * 2"

Rotate = Callable[[jax.Array], jax.Array]


def hugging_face_half(x, sin, cos):
    """FlaxLlama's `apply_rotary_pos_emb`; tables [1, L, 1, D], both halves filled."""
    half = x.shape[-1] // 2
    rotated_half = jnp.concatenate((-x[..., half:], x[..., :half]), axis=-1)
    return (x * cos + rotated_half * sin).astype(x.dtype)


def hugging_face_interleaved(x, sin, cos):
    """FlaxRoFormer's `apply_rotary_position_embeddings`; tables [1, L, 1, D], every entry twice."""
    rotated_half = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    return (x * cos + rotated_half * sin).astype(x.dtype)


def implementations(shape: tuple[int, ...], layout: str, dtype: str) -> dict[str, tuple[Callable, tuple]]:
    """Name -> (function of x and the arrays given beside it, those arrays)."""
    _, length, _, head_dim = shape
    freqs = rope.frequencies(head_dim)
    positions = jnp.arange(length)
    table = rope.rotation(positions, freqs)
    doubled = (lambda t: jnp.repeat(t, 2, -1)) if layout == "interleaved" else (lambda t: jnp.concatenate([t, t], -1))
    sin, cos = (doubled(part)[None, :, None] for part in (table.sin, table.cos))
    theirs = hugging_face_interleaved if layout == "interleaved" else hugging_face_half
    found = {
        COPY: (lambda x: x * 2, ()),
        OURS: (lambda x, table: rope.rotate(x, table, layout=layout), (table,)),
        OURS_POSITIONS: (lambda x, p: rope.rotate(x, rope.rotation(p, freqs), layout=layout), (positions,)),
        HUGGING_FACE: (theirs, (sin, cos)),
    }
    return found | {name: (module, ()) for name, module in modules(length, head_dim, dtype).items()}


def modules(length: int, head_dim: int, dtype: str) -> dict[str, Rotate]:
    """The rotations of flax and equinox over [batch, length, heads, head size], where they are installed."""
    found = {}
    if importlib.util.find_spec("flax"):
        from flax import nnx

        if hasattr(nnx, "RoPE"):
            found["flax nnx.RoPE"] = jax.vmap(nnx.RoPE(embedding_size=head_dim, max_seq_len=length), -2, -2)
    if importlib.util.find_spec("equinox"):
        import equinox

        module = equinox.nn.RotaryPositionalEmbedding(head_dim, dtype=jnp.dtype(dtype))
        found["equinox"] = jax.vmap(jax.vmap(module, 1, 1))
    return found


def forward_and_backward(function: Callable) -> Callable:
    """The result and the cotangent of x."""

    def both(x, cotangent, *tables):
        result, pullback = jax.vjp(lambda x: function(x, *tables), x)
        return result, pullback(cotangent.astype(result.dtype))

    return both


def timed_in_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, every repeat calling each once."""
    seconds = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure(shape: tuple[int, ...], dtype: str, layout: str, backward: bool, repeats: int) -> dict[str, object]:
    """One row of the table."""
    x, cotangent = (jax.random.normal(jax.random.key(seed), shape, jnp.dtype(dtype)) for seed in (0, 1))
    calls = {}
    for name, (function, tables) in implementations(shape, layout, dtype).items():
        arrays = (x, cotangent, *tables) if backward else (x, *tables)
        calls[name] = functools.partial(jax.jit(forward_and_backward(function) if backward else function), *arrays)
    seconds = timed_in_turns(calls, repeats)
    row = {"shape": shape, "dtype": dtype, "layout": layout, "pass": "both" if backward else "forward"}
    return row | {"copy_ms": 1e3 * seconds[COPY], "times_copy": {n: t / seconds[COPY] for n, t in seconds.items()}}


def print_table(rows: list[dict]) -> None:
    """Markdown: times over `x * 2`, and how many times faster than the best of the others."""
    names = [name for name in rows[0]["times_copy"] if name != COPY]
    others = [name for name in names if name not in (OURS, OURS_POSITIONS)]
    print("| x | pass | `x * 2`, ms |", " | ".join(names), "| best other / ours |")
    print("| --- " * (len(names) + 4) + "|")
    for row in rows:
        ratios = row["times_copy"]
        cells = " | ".join(f"{ratios[name]:.2f}" for name in names)
        gain = min(ratios[name] for name in others) / ratios[OURS]
        what = f"{list(row['shape'])} {row['dtype']} {row['layout']}"
        print(f"| {what} | {row['pass']} | {row['copy_ms']:.2f} | {cells} | {gain:.1f} |")


def main() -> None:
    """Measures every row and prints the table, or one JSON object per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per row instead of a table")
    parser.add_argument("--repeats", type=int, default=31, help="times each call is timed (default 31)")
    options = parser.parse_args()
    rows = []
    for shape in SHAPES:
        for dtype in DTYPES:
            for layout in ("interleaved", "half"):
                for backward in (False, True):
                    rows.append(measure(shape, dtype, layout, backward, options.repeats))
                    print(json.dumps(rows[-1]) if options.json else ".", end="\n" if options.json else "", flush=True,
                          file=sys.stdout if options.json else sys.stderr)  # fmt: skip
    if not options.json:
        print(f"\n\n{jax.default_backend()} ({platform.machine()}), jax {jax.__version__}; times over `x * 2`\n")
        print_table(rows)


if __name__ == "__main__":
    main()
