import numpy as np
import pytest

from roformer_jax.training.throughput import Throughput, count_tokens


def test_padding_is_the_share_of_places_without_a_segment():
    segments = np.array([[[1, 1, 2, 0], [1, 0, 0, 0]]], np.int32)
    tokens, padding = count_tokens({"segment_ids": segments, "ids": np.ones_like(segments)}, shares=1)
    assert (tokens, padding) == (4, 0.5)


def test_the_shares_of_other_processes_hold_as_many_tokens():
    segments = np.array([[[1, 1, 1, 0]]], np.int32)
    assert count_tokens({"segment_ids": segments}, shares=4) == (12, 0.25)


def test_a_device_at_its_peak_has_an_mfu_of_one():
    throughput = Throughput(token_flops=1e9, devices=4, peak=2e12)
    rates = throughput.rates(tokens=16_000, seconds=2.0)  # 16e12 FLOPs on 4 devices in 2 s: 2e12 each second
    assert rates["mfu"] == pytest.approx(1.0)
    assert rates["model_tflops"] == pytest.approx(2.0)
    assert rates["tokens_per_second"] == 4 * rates["tokens_per_second_per_device"] == 8000


def test_without_a_known_peak_there_is_no_mfu():
    assert "mfu" not in Throughput(token_flops=1e9, devices=1, peak=None).rates(tokens=10, seconds=1.0)
