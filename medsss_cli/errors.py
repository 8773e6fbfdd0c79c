"""The errors that a user can see. The library raises them; `app.py` alone turns them into messages and exit codes."""

from __future__ import annotations


class MedsssError(Exception):
    """Something that the user must know: what happened, where, and what to do next.

    `hint` is the "what to do" line, `exit_code` the program's status: 1 some work failed, 2 wrong usage.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(MedsssError):
    """The command line cannot be carried out as it stands: a missing file, an unknown name, options at odds."""

    exit_code = 2


class BadRecord(MedsssError):
    """One input record cannot be used. The run reports it, counts it and goes on (unless `--strict`)."""


class EngineError(MedsssError):
    """The engine could not serve a request. The record that asked fails; the run goes on."""


class MissingExtra(UsageError):
    """An optional package is not installed. The hint is the exact pip line."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed", hint=f"pip install 'medsss[{extra}]'")


class Finished(Exception):
    """The command has done all that was asked of it before its usual end. Its status is `exit_code`."""

    def __init__(self, exit_code: int = 0) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
