import io
import time

import pytest

from roformer_jax.training.progress import Progress

VALUES = {
    "loss": 2.34567, "tokens_per_second": 12345.6, "tokens_per_second_per_device": 1543.2, "model_tflops": 1.0421,
    "data_wait_seconds": 0.0123, "padding": 0.0219,
}  # fmt: skip
RATES = "12,346 tokens/s (1,543 each, 1.04 TFLOP/s)  wait 12 ms  padding 2.2%"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows `clock.now` seconds."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def test_log_has_the_first_and_the_last_step_and_one_line_per_interval_between(clock):
    stream = io.StringIO()
    with Progress(10, stream=stream, interval=10.0) as progress:
        for step in range(1, 11):
            progress.update(step, VALUES)
            clock.now += 4.0
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/10", "4/10", "7/10", "10/10"]
    assert lines[1] == f"step 4/10  loss 2.3457  {RATES}  0:00:24 left"
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_run_gone_on_with_counts_the_pace_from_its_own_first_step(clock):
    stream = io.StringIO()
    with Progress(100, start=50, stream=stream, interval=0.0) as progress:
        progress.update(51, VALUES)
        clock.now += 2.0
        progress.update(52, VALUES)
    first, second = stream.getvalue().splitlines()
    assert first.endswith("? left")
    assert second.endswith("0:01:36 left")


def test_a_known_chip_has_an_mfu_and_the_longest_line_still_fits_a_screen():
    values = {
        "loss": 10.32567, "tokens_per_second": 12_345_678.9, "tokens_per_second_per_device": 48_225.3,
        "model_tflops": 39.26, "mfu": 0.1993, "data_wait_seconds": 0.0004, "padding": 0.0419,
    }  # fmt: skip
    stream = io.StringIO()
    with Progress(250_000, stream=stream) as progress:
        progress.update(100_000, values)
    line = stream.getvalue().rstrip()
    assert "(48,225 each, 39.3 TFLOP/s, MFU 19.9%)" in line
    assert len(line) <= 125


def test_notes_are_lines_of_their_own():
    stream = io.StringIO()
    with Progress(10, stream=stream) as progress:
        progress.note("evaluation after step 0: loss [3.1]")
    assert stream.getvalue() == "evaluation after step 0: loss [3.1]\n"


def test_terminal_gets_a_live_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(10, stream=stream) as progress:
        progress.note("a note [with brackets]")
        progress.update(7, VALUES)
    text = stream.getvalue()
    assert "a note [with brackets]" in text
    assert "7/10" in text and "loss 2.3457" in text and "12,346 tokens/s" in text
