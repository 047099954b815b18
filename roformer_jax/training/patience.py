"""Event loops that let everything begun on them end.

Reading a damaged checkpoint, orbax gives up at the first array that fails, and closes the loop on which the others are
still being read. Each of those would then write a traceback to the standard error, when it is too late to catch it.
"""

import asyncio
import contextlib
from collections.abc import Iterator


class PatientLoop(asyncio.SelectorEventLoop):
    """Closes when its tasks have ended; what they raise then is nobody's business any more."""

    def close(self) -> None:
        """Waits for all tasks, and closes."""
        tasks = set() if self.is_closed() else asyncio.all_tasks(self)
        if tasks:
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


@contextlib.contextmanager
def patient_loops() -> Iterator[None]:
    """Inside it every new event loop of the process is patient: orbax cannot be told which to use."""
    new_event_loop = asyncio.new_event_loop
    asyncio.new_event_loop = PatientLoop
    try:
        yield
    finally:
        asyncio.new_event_loop = new_event_loop
