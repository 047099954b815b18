"""The ends of a run that are foreseen: each is shown as one message without a traceback, and has an exit code."""


class RunError(Exception):
    """A foreseen end.

    Attributes:
      exit_code: what the command line ends with.
    """

    exit_code: int


class InputError(RunError, ValueError):
    """Bad input: the message says what is wrong, where (file, line, field, both values) and what to do."""

    exit_code = 2


class NonFiniteError(RunError):
    """Training gave no finite numbers any more; what is on disk is from before."""

    exit_code = 3


class DamagedError(RunError):
    """There are checkpoints, and none of them holds what was saved; nothing was changed."""

    exit_code = 4


class UnsavedError(RunError):
    """The last state of a run could not be written; older checkpoints are as they were."""

    exit_code = 5


class Interrupted(RunError):  # noqa: N818 (an event, not an error)
    """A signal stopped the run; nothing is lost and the same call goes on from there.

    Attributes:
      step: number of updates made and saved; None if this start of the run had made none.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again

    def __init__(self, step: int | None = None):
        done = "before its first update; nothing is lost" if step is None else f"after step {step}, which is saved"
        super().__init__(f"stopped by a signal {done}")
        self.step = step
