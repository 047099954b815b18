"""What a person sees of a run: a live bar on a terminal, plain lines in a log. The only file that knows rich."""

import io
import sys
import time
from collections.abc import Mapping
from datetime import timedelta

import jax
import rich.console
import rich.progress


class Progress:
    """One line with the step, the loss, tokens per second and the time left; a context manager.

    Only the first process of a run speaks. Without a terminal there are no control characters, and a line appears at
    most every `interval` seconds, besides the first and the last.

    Args:
        total: number of updates of the whole run.
        start: number of updates made before this process.
        interval: seconds between lines where there is no terminal.
        stream: where to write, the standard error by default.
    """

    def __init__(self, total: int, *, start: int = 0, interval: float = 10.0, stream: io.TextIOBase | None = None):
        self._total, self._interval = total, interval
        self._stream = stream or sys.stderr
        self._first = self._last_line = None
        self._silent = jax.process_index() != 0
        self._bar = _live_bar(self._stream) if self._stream.isatty() and not self._silent else None
        if self._bar:
            self._task = self._bar.add_task("", total=total, completed=start, status="")
            self._bar.start()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the loss and the rates of `values`, the metrics of update `step`; on a terminal, what fits the bar."""
        loss, left = f"loss {values['loss']:.4f}", f"{self._time_left(step)} left"
        if self._bar:
            status = f"{loss}  {values['tokens_per_second']:,.0f} tokens/s  {left}"
            self._bar.update(self._task, completed=step, status=status)
        elif self._last_line is None or step == self._total or time.monotonic() - self._last_line >= self._interval:
            self.note(f"step {step}/{self._total}  {loss}  {_rates(values)}  {left}")
            self._last_line = time.monotonic()

    def note(self, text: str) -> None:
        """Shows a line of its own, such as the result of an evaluation."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self._silent:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the line as it stands."""
        if self._bar:
            self._bar.stop()

    def _time_left(self, step: int) -> str:
        """From the pace since the first update seen, which is not counted itself: it waited for the compiler."""
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
            return "?"
        first_step, began = self._first
        return str(timedelta(seconds=round((self._total - step) * (now - began) / (step - first_step))))


def _rates(values: Mapping[str, float]) -> str:
    """Tokens per second, in brackets those of each device, its model TFLOP/s and MFU; wait for data; padding."""
    device = f"{values['tokens_per_second_per_device']:,.0f} each, {values['model_tflops']:.3g} TFLOP/s"
    mfu = f", MFU {values['mfu']:.1%}" if "mfu" in values else ""
    return (
        f"{values['tokens_per_second']:,.0f} tokens/s ({device}{mfu})  "
        f"wait {1e3 * values['data_wait_seconds']:.0f} ms  padding {values['padding']:.1%}"
    )


def _live_bar(stream: io.TextIOBase) -> rich.progress.Progress:
    columns = (
        rich.progress.MofNCompleteColumn(),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[status]}"),
    )
    return rich.progress.Progress(*columns, console=rich.console.Console(file=stream))
