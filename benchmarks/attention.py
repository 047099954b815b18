"""Times exact softmax attention, forward and backward, as one matrix and block by block, and measures its memory.

    python -m benchmarks.attention [--json] [--plot FILE.svg] [--longest 32768]

Float32, one row, 8 heads of 64. Every length of every form has a process of its own, in turns, so that a peak of
resident memory is its own. The program is compiled before the time is taken; short calls are repeated for SECONDS, and
the median counts. Memory is the peak of the process over its peak when it had compiled and made no arrays yet. The
whole matrix is measured as long as the compiler sets aside less than 4 GiB for it.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from roformer_jax.attention import dot_product_attention
from roformer_jax.report.figures import COLOURS, EndLabel, label_ends, themed_figure

LENGTHS = tuple(2**i for i in range(9, 16))
FORMS = ("blockwise", "dense")
HEADS, HEAD_DIM = 8, 64
SECONDS = 1.0  # of repeats of one call
MEMORY_LIMIT = 4 * 2**30  # bytes that the compiler sets aside for intermediate results
SETTLED = 4096  # tokens; slopes are taken from here on
COLUMNS = ("seconds", "peak_bytes", "temporary_bytes")


def compiled_pass(form: str, length: int):
    """Forward and backward pass of one form."""

    def both(q, k, v, cotangent):
        out, pullback = jax.vjp(lambda *qkv: dot_product_attention(*qkv, implementation=form), q, k, v)
        return out, *pullback(cotangent)

    shape = jax.ShapeDtypeStruct((1, length, HEADS, HEAD_DIM), jnp.float32)
    return jax.jit(both).lower(*[shape] * 4).compile()


def resident_peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(form: str, length: int) -> dict:
    """One row, measured in this process; without times where the limit is passed."""
    compiled = compiled_pass(form, length)
    row = {"form": form, "length": length, "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes}
    if row["temporary_bytes"] > MEMORY_LIMIT:
        return row
    drawn = jax.jit(lambda key: jax.random.normal(key, (1, length, HEADS, HEAD_DIM))).lower(jax.random.key(0)).compile()
    at_rest = resident_peak()
    given = [drawn(jax.random.key(seed)) for seed in range(4)]
    times = []
    while not times or sum(times) < SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*given))
        times.append(time.perf_counter() - start)
    peak = resident_peak()
    return row | {
        "seconds": statistics.median(times), "runs": len(times), "peak_bytes": peak - at_rest, "process_bytes": peak,
    }  # fmt: skip


def measure_apart(form: str, length: int) -> dict:
    """One row, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.attention", "--one", form, str(length)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def column(rows: list[dict], form: str, name: str) -> dict[int, float]:
    """Length -> value, where measured."""
    return {row["length"]: row[name] for row in rows if row["form"] == form and name in row and "seconds" in row}


def slope(values: dict[int, float]) -> float:
    """The power of the length with which values grow, by least squares on logarithmic scales."""
    points = [(math.log(length), math.log(value)) for length, value in values.items() if length >= SETTLED]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def slopes(rows: list[dict]) -> dict[str, float]:
    """The powers of the length with which the costs of `blockwise` grow."""
    return {f"slope_of_{name}": slope(column(rows, "blockwise", name)) for name in COLUMNS}


def print_table(rows: list[dict]) -> None:
    """Markdown: one line for each length, then the slopes."""
    print(
        f"{jax.default_backend()} ({platform.machine()}, {os.cpu_count()} cores), jax {jax.__version__}; float32, "
        f"1 row, {HEADS} heads of {HEAD_DIM}, forward and backward\n"
    )
    print("| length | blockwise, s | dense, s | blockwise, MiB | dense, MiB | blockwise, whole process, MiB |")
    print("| ---: " * 6 + "|")
    for length in LENGTHS:
        found = [column(rows, form, name).get(length) for name in COLUMNS[:2] for form in FORMS]
        if found[0] is None:
            continue
        whole = column(rows, "blockwise", "process_bytes")[length]
        times = ["" if value is None else f"{value:.3g}" for value in found[:2]]
        memory = ["" if value is None else f"{value / 2**20:,.0f}" for value in (*found[2:], whole)]
        print(f"| {length:,} | {' | '.join((*times, *memory))} |")
    powers = slopes(rows)
    print(
        f"\nfrom {SETTLED:,} tokens on, blockwise: time grows with the power {powers['slope_of_seconds']:.2f} of the "
        f"length, peak memory with {powers['slope_of_peak_bytes']:.2f}, the compiler's temporary memory with "
        f"{powers['slope_of_temporary_bytes']:.2f}"
    )


def draw(rows: list[dict], path: Path) -> None:
    """Time and memory against the length, on logarithmic scales, with the slopes 2 and 1 for comparison."""
    panels = {"seconds": ("time (s)", 1, 2), "peak_bytes": ("peak memory (MiB)", 2**20, 1)}
    with themed_figure(6.4, 5.2) as figure:
        for axes, (name, (label, unit, power)) in zip(figure.subplots(2, sharex=True), panels.items(), strict=True):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            ends = []
            for form, colour in zip(FORMS, ("blue", "orange"), strict=True):
                values = {length: value / unit for length, value in column(rows, form, name).items()}
                axes.plot(
                    values.keys(),
                    values.values(),
                    "o-",
                    color=COLOURS[colour],
                    linewidth=1.6,
                    markersize=4,
                    clip_on=False,
                )
                ends.append(EndLabel(list(values.values())[-1], form, colour))
            lengths = sorted(column(rows, "blockwise", name))
            last = column(rows, "blockwise", name)[lengths[-1]] / unit
            guide = [last * (length / lengths[-1]) ** power for length in lengths]
            axes.plot(lengths, guide, ":", color=COLOURS["muted"], linewidth=1)
            axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
            axes.set(ylabel=label, xlim=(lengths[0], lengths[-1]))
            label_ends(axes, ends)
        axes.set_xlabel("length (tokens); dotted: slopes 2 and 1")
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=200, facecolor=COLOURS["page"], metadata=metadata)


def main() -> None:
    """Measures, prints the table or one JSON object per row and one for the slopes, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument("--plot", type=Path, help="file of the plot, .svg or .png")
    parser.add_argument("--longest", type=int, choices=LENGTHS[4:], default=LENGTHS[-1], help="default 32768")
    parser.add_argument("--one", nargs=2, metavar=("FORM", "LENGTH"), help="measure this alone, in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    lengths = [length for length in LENGTHS if length <= options.longest]
    rows = [measure_apart(form, length) for length in lengths for form in FORMS]
    if options.json:
        print("\n".join(json.dumps(row) for row in (*rows, slopes(rows))))
    else:
        print_table(rows)
    if options.plot:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
