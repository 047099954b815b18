"""Times decoding, a token at a time, with softmax attention over a cache and with linear attention over its state.

    python -m benchmarks.decoding [--json] [--tokens 2000]

One row, greedy, random parameters; 4 layers x 256. Both take turns, 100 tokens each: milliseconds per token (the median
of a turn), and the bytes of what is remembered. A softmax cache is made for all tokens and read whole at every step.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp

from roformer_jax.models import Decoder, RoFormerConfig, build_causal_lm, build_decoder

TURN = 100  # tokens


class Decoding:
    """A model in the middle of a text."""

    def __init__(self, attention: str, tokens: int):
        config = RoFormerConfig(
            vocab_size=261, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attention=attention,
        )  # fmt: skip
        decoder: Decoder = build_decoder(config)
        self.params = build_causal_lm(config).init(jax.random.key(0))
        self.cache = decoder.init_cache(1, tokens)
        self.ids = jnp.zeros((1, 1), jnp.int32)
        self.one = jnp.ones(1, jnp.int32)

        @jax.jit
        def step(params, ids, counts, cache):
            logits, cache = decoder.extend(params, ids, counts, cache)
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), cache

        self.step = step

    def turn(self) -> float:
        """Decodes `TURN` tokens; the median seconds of one."""
        seconds = []
        for _ in range(TURN):
            start = time.perf_counter()
            self.ids, self.cache = jax.block_until_ready(self.step(self.params, self.ids, self.one, self.cache))
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    @property
    def remembered(self) -> int:
        """Bytes of the cache or state."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.cache))


def main() -> None:
    """Prints the table, or one JSON object per row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per row instead of a table")
    parser.add_argument("--tokens", type=int, default=2000, help="tokens to decode (default 2000)")
    options = parser.parse_args()
    running = {attention: Decoding(attention, options.tokens) for attention in ("linear", "softmax")}
    for decoding in running.values():  # compiled, and then begun anew
        jax.block_until_ready(decoding.step(decoding.params, decoding.ids, decoding.one, decoding.cache))
    if not options.json:
        print("| tokens before | linear, ms per token | bytes | softmax, ms per token | bytes |")
        print("| --- | --- | --- | --- | --- |")
    for before in range(0, options.tokens, TURN):
        found = {name: (1e3 * decoding.turn(), decoding.remembered) for name, decoding in running.items()}
        if options.json:
            print(json.dumps({"before": before} | found), flush=True)
        else:
            cells = " | ".join(f"{ms:.2f} | {size:,}" for ms, size in found.values())
            print(f"| {before:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
