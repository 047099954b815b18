"""Asking a run to stop after the update it is making."""

import os
import signal
import threading


class StopSignal:
    """Context manager in which the first SIGINT or SIGTERM sets `requested` instead of ending the process.

    A second SIGINT (Ctrl-C again) raises KeyboardInterrupt; a second SIGTERM changes nothing: schedulers repeat it.
    The previous handlers come back at the end. Python handles signals on the main thread only: elsewhere it is inert.

    Attributes:
        requested: whether a signal has asked the run to stop.
    """

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _frame) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        # os.write, because a handler may run in the middle of a print, which cannot be entered twice.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: stopping after this step; Ctrl-C once more stops at once\n".encode())
