"""The one error that means "the user can mend this": shown without a traceback, exit code 2."""


class InputError(ValueError):
    """Bad input: the message says what is wrong, where (file, line, field, both values) and what to do."""
