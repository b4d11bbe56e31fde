"""What an operation tells while it works."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Phase(StrEnum):
    """What an operation is at, as it is shown to people and stored with a run."""

    CHECKING = "checking"
    READING = "reading"
    HOOKS = "hooks"
    DUMPING = "dumping"
    STORING = "storing"
    FINISHING = "finishing"
    VERIFYING = "verifying"
    RESTORING = "restoring"
    INDEXING = "indexing"
    ANALYZING = "analyzing"
    COPYING = "copying"
    SWAPPING = "swapping"
    CLEANING_UP = "cleaning up"
    HOOKS_AFTER_SWAP = "hooks after the swap"
    DROPPING = "dropping"


class Reporter(Protocol):
    """Told by the operations what they do; its methods may be called from any thread.

    ``advance`` is called often and must return at once. A reporter that raises an error of ours in
    ``check``, such as :class:`~pgclone_admin.core.errors.Cancelled`, ends the operation, which then
    cleans up as after any failure.
    """

    def phase(self, name: Phase, *, total: int | None = None) -> None:
        """A new phase begins; ``total`` is its size in bytes where that is known."""

    def advance(self, count: int) -> None:
        """``count`` more bytes of the current phase are done."""

    def note(self, message: str) -> None:
        """A sentence for the log."""

    def warn(self, message: str) -> None:
        """A sentence that a person should read."""

    def check(self) -> None:
        """Raises when the operation should end."""

    def is_to_end(self) -> bool:
        """Whether :meth:`check` would raise."""


class SilentReporter:
    """Tells nobody, but keeps what was said."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.bytes_done = 0

    def phase(self, name: Phase, *, total: int | None = None) -> None:
        self.phases.append(name)

    def advance(self, count: int) -> None:
        self.bytes_done += count

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def check(self) -> None:
        return None

    def is_to_end(self) -> bool:
        return False
