"""How fast an update was: tokens, model FLOP/s, and model FLOPs utilisation (MFU)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from roformer_jax.training.step import Batch


class Loaded(NamedTuple):
    """A batch on its devices.

    Attributes:
      batch: the placed arrays.
      tokens: real tokens in it, over all processes.
      padding: share of its places that hold no token.
    """

    batch: Batch
    tokens: int
    padding: float


def count_tokens(batch: Mapping[str, np.ndarray], shares: int) -> tuple[int, float]:
    """Real tokens of a batch, and the share of its places that hold none.

    Args:
      batch: one share of it, on the host.
      shares: how many shares there are; the others are taken to hold as many tokens.
    """
    segments = batch["segment_ids"]
    tokens = int(np.count_nonzero(segments))
    return tokens * shares, 1.0 - tokens / segments.size


class Throughput(NamedTuple):
    """What turns seconds into rates.

    Attributes:
      token_flops: model FLOPs of an update for each token of its batch (see `flops`).
      devices: how many there are.
      peak: FLOP/s of matrix products of one device; None where it is not known.
    """

    token_flops: float
    devices: int
    peak: float | None

    def rates(self, tokens: int, seconds: float) -> dict[str, float]:
        """Tokens per second, over all devices and per device; model TFLOP/s per device; MFU where the peak is known.

        MFU = model FLOPs / (seconds x devices x peak); padding has no model FLOPs.
        """
        per_device = tokens / seconds / self.devices
        rates = {
            "tokens_per_second": tokens / seconds,
            "tokens_per_second_per_device": per_device,
            "model_tflops": per_device * self.token_flops / 1e12,
        }
        return rates if self.peak is None else rates | {"mfu": per_device * self.token_flops / self.peak}
