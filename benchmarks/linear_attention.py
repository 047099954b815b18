"""Times causal linear attention (equation 19) beside causal softmax attention, forward and backward, over the length.

    python -m benchmarks.linear_attention [--json] [--output FOLDER] [--repeats 5]

Everything is compiled, and timed in turns in one process: each repeat runs every length of both, short ones as often
as makes up TOKENS, and a cell is the median. Memory is what the compiler sets aside for intermediate results, of one
forward and backward pass; softmax attention is measured as long as that stays below 8 GiB. With --output, the plot is
drawn into FOLDER.
"""

import argparse
import functools
import json
import math
import platform
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.rope import timed_in_turns
from roformer_jax import rope
from roformer_jax.attention import dot_product_attention, linear_attention
from roformer_jax.report.figures import COLOURS, EndLabel, label_ends, themed_figure

LENGTHS = tuple(2**i for i in range(7, 17))
HEADS, HEAD_DIM = 4, 64
TOKENS = {"linear": 16_384, "softmax": 1024}  # of one repeat, at least: a single short run is mostly noise
MEMORY_LIMIT = 8 * 2**30  # bytes of one pass of softmax attention
RATIO_LENGTHS = 4096, 65_536
GOAL_RATIO, GOAL_CROSSING = 1.3, 8192


def linear(q, k, v, table):
    return linear_attention(q, k, v, table, layout="half", causal=True)


def softmax(q, k, v, table):
    return dot_product_attention(*rope.rotate_qk(q, k, table, layout="half"), v, causal=True, implementation="dense")


FORMS = {"linear": linear, "softmax": softmax}


def forward_and_backward(attention):
    """The result and the three gradients."""

    def both(q, k, v, cotangent, table):
        out, pullback = jax.vjp(lambda *qkv: attention(*qkv, table), q, k, v)
        return out, *pullback(cotangent)

    return jax.jit(both)


def arrays(length: int) -> list:
    """Queries, keys, values and the cotangent of the result, and the table."""
    keys = jax.random.split(jax.random.key(0), 4)
    table = rope.rotation(jnp.arange(length), rope.frequencies(HEAD_DIM))
    return [*(jax.random.normal(key, (1, length, HEADS, HEAD_DIM)) for key in keys), table]


def run(compiled, given: list, times: int):
    """Runs it several times, one after another."""
    for _ in range(times):
        jax.block_until_ready(compiled(*given))


def measure(repeats: int) -> list[dict]:
    """One row per form and length."""
    calls, rows = {}, []
    for length in LENGTHS:
        given = arrays(length)
        for form, attention in FORMS.items():
            compiled = forward_and_backward(attention).lower(*given).compile()
            memory = compiled.memory_analysis().temp_size_in_bytes
            if form == "linear" or memory <= MEMORY_LIMIT:
                times = max(1, TOKENS[form] // length)
                calls[form, length] = functools.partial(run, compiled, given, times)
                rows.append({"form": form, "length": length, "runs": times, "temporary_bytes": memory})
    seconds = timed_in_turns(calls, repeats)
    tokens = [row["length"] * row["runs"] for row in rows]
    return [
        row | {"us_per_token": 1e6 * seconds[row["form"], row["length"]] / count}
        for row, count in zip(rows, tokens, strict=True)
    ]


def column(rows: list[dict], form: str, name: str) -> dict[int, float]:
    """Length -> value."""
    return {row["length"]: row[name] for row in rows if row["form"] == form}


def crossing(rows: list[dict]) -> float | None:
    """The length from which on linear attention is faster, between the measured ones on logarithmic scales.

    The shortest length measured if it is faster there already; None if it is not at the longest.
    """
    ours, theirs = (column(rows, form, "us_per_token") for form in FORMS)
    gains = [(math.log(length), math.log(time / ours[length])) for length, time in theirs.items()]
    if gains[-1][1] < 0:
        return None
    slower = [index for index, (_, gain) in enumerate(gains) if gain < 0]
    if not slower:
        return math.exp(gains[0][0])
    (x, y), (next_x, next_y) = gains[slower[-1] : slower[-1] + 2]
    return math.exp(x - y * (next_x - x) / (next_y - y))


def summary(rows: list[dict]) -> dict:
    """The two goals and what was measured."""
    times, memory = (column(rows, "linear", name) for name in ("us_per_token", "temporary_bytes"))
    short, long = RATIO_LENGTHS
    return {
        "ratio_of_time_per_token": times[long] / times[short],
        "goal_ratio": GOAL_RATIO,
        "ratio_of_memory_per_token": memory[long] / memory[short] * short / long,
        "crossing_length": crossing(rows),
        "goal_crossing": GOAL_CROSSING,
    }


def print_table(rows: list[dict], found: dict) -> None:
    """Markdown: one line for each length, then the goals."""
    print(
        f"{jax.default_backend()} ({platform.machine()}), jax {jax.__version__}; float32, {HEADS} heads of {HEAD_DIM}"
    )
    print("\n| length | linear, us/token | softmax, us/token | linear, MiB | softmax, MiB |")
    print("| --- " * 5 + "|")
    columns = [column(rows, form, name) for name in ("us_per_token", "temporary_bytes") for form in FORMS]
    for length in LENGTHS:
        times = [f"{values[length]:.1f}" if length in values else "" for values in columns[:2]]
        memory = [f"{values[length] / 2**20:,.0f}" if length in values else "" for values in columns[2:]]
        print(f"| {length:,} | {' | '.join((*times, *memory))} |")
    short, long = RATIO_LENGTHS
    where = found["crossing_length"]
    faster = "no measured length" if where is None else f"about {where:,.0f} tokens on"
    print(f"\ntime per token at {long:,} over {short:,}: {found['ratio_of_time_per_token']:.2f} (goal {GOAL_RATIO})")
    print(f"memory per token at {long:,} over {short:,}: {found['ratio_of_memory_per_token']:.2f}")
    print(f"linear attention is faster from {faster} (goal below {GOAL_CROSSING:,})")


def draw(rows: list[dict], folder: Path) -> None:
    """Time per token and memory against the length, on logarithmic scales, as SVG and PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    panels = {"us_per_token": ("time per token (µs)", 1), "temporary_bytes": ("temporary memory (MiB)", 2**20)}
    with themed_figure(6.4, 5.2) as figure:
        for axes, (name, (label, unit)) in zip(figure.subplots(2, sharex=True), panels.items(), strict=True):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            ends = []
            for form, colour in zip(FORMS, ("blue", "orange"), strict=True):
                values = {length: value / unit for length, value in column(rows, form, name).items()}
                axes.plot(values.keys(), values.values(), "o-", color=COLOURS[colour], linewidth=1.6, markersize=4)
                ends.append(EndLabel(list(values.values())[-1], form, colour))
            axes.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
            axes.set(ylabel=label, xlim=(LENGTHS[0], LENGTHS[-1]))
            label_ends(axes, ends)
        axes.set_xlabel("length (tokens)")
        for suffix in ("svg", "png"):
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(folder / f"linear-attention.{suffix}", dpi=200, facecolor=COLOURS["page"], metadata=metadata)


def main() -> None:
    """Measures, prints the table or one JSON object per row and one for the goals, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument("--output", type=Path, help="folder for the plot")
    parser.add_argument("--repeats", type=int, default=5, help="times each call is timed (default 5)")
    options = parser.parse_args()
    rows = measure(options.repeats)
    found = summary(rows)
    if options.json:
        print("\n".join(json.dumps(row) for row in (*rows, found)))
    else:
        print_table(rows, found)
    if options.output:
        draw(rows, options.output)


if __name__ == "__main__":
    main()
