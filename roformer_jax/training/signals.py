"""Asking a run to stop: at once while there is nothing to lose, else after the update it is making."""

import contextlib
import os
import signal
import threading
import time

import jax
from jax.experimental import multihost_utils

from roformer_jax.errors import Interrupted

SIGNALS = signal.SIGINT, signal.SIGTERM
GRACE = 3.0  # seconds that a run which has nothing to lose is given to end in an orderly way
KILLED = 128 + signal.SIGINT  # how shells count a process that SIGINT ended


class StopSignal:
    """Context manager in which SIGINT and SIGTERM stop a run without loss. It handles them on the main thread only.

    Until `begin` the run has nothing to lose: a signal raises `Interrupted` there and then, and a thread ends the
    process if that takes longer than `GRACE`, for compilers do not listen. From `begin` on the first signal makes
    `requested` true and changes nothing else. A second SIGINT (Ctrl-C again) ends the process at once, at any time; a
    second SIGTERM changes nothing: schedulers repeat it.

    On several processes JAX's preemption service takes SIGTERM, and SIGINT is handed on to it: whichever process was
    signalled, `requested` becomes true in all of them at the same call.
    """

    def __init__(self):
        self._asked = self._begun = False
        self._shared = jax.distributed.is_initialized()
        self._calls = 0
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            if self._shared:
                self._handle(signal.SIGINT, self._hand_on)
            else:
                for number in SIGNALS:
                    self._handle(number, self._ask)
                self._watch()
        return self

    def __exit__(self, *exception) -> None:
        self._begun = True  # from here on there is nothing to hurry
        self._cleanup.close()

    def begin(self) -> None:
        """From now on there are updates that must be saved.

        Raises:
          Interrupted: a signal has come; over several processes in all of them.
        """
        if self.requested():
            raise Interrupted
        self._begun = True

    def requested(self) -> bool:
        """Whether to stop. Over several processes all make the same calls, and get the same answers."""
        if self._shared and not self._asked:
            self._calls += 1
            self._asked = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked

    def check(self) -> None:
        """Stops what may be left half done, such as an evaluation.

        Raises:
          Interrupted: `requested`.
        """
        if self.requested():
            raise Interrupted

    def _handle(self, number: int, handler) -> None:
        self._cleanup.callback(signal.signal, number, signal.signal(number, handler))

    def _ask(self, number: int, _frame) -> None:
        if self._asked and number == signal.SIGINT:
            _end(KILLED, "ended")
        self._asked = True
        if not self._begun:
            raise Interrupted
        # os.write, because a handler may run in the middle of a print, which cannot be entered twice.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: stopping after this step; Ctrl-C once more ends at once, unsaved\n".encode())

    def _hand_on(self, number: int, _frame) -> None:
        if self._asked:
            _end(KILLED, "ended")
        self._handle(number, lambda *_: _end(KILLED, "ended"))
        os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self) -> None:
        """Starts the thread that ends a process whose main thread cannot hear: Python runs handlers there, late."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        thread = threading.Thread(target=self._end_late, args=(reader,), name="signals", daemon=True)
        self._cleanup.callback(os.close, reader)
        self._cleanup.callback(thread.join)
        self._cleanup.callback(os.close, writer)  # before the others: it ends the thread's read
        self._cleanup.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer, warn_on_full_buffer=False))
        thread.start()

    def _end_late(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] in SIGNALS and not self._begun:
                deadline = time.monotonic() + GRACE
                while not self._begun and time.monotonic() < deadline:
                    time.sleep(0.05)
                if not self._begun:
                    _end(Interrupted.exit_code, str(Interrupted()))


def _end(code: int, message: str) -> None:
    """Ends the process without waiting for anything: a killed run lacks its last steps only."""
    show_cursor = "\x1b[?25h" if os.isatty(2) else ""  # a live bar hides it
    os.write(2, f"\n{show_cursor}{message}\n".encode())
    os._exit(code)
