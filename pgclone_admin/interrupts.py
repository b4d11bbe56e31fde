"""Signals that end a run in a worker, which cleans up then."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .core.errors import Interrupted
from .recording import RunReporter, took_too_long

AGAIN_AFTER = 20.0
"""Seconds after which a signal interrupts a run once more: a hook may swallow every error."""


@contextmanager
def interruptible(reporter: RunReporter) -> Iterator[None]:
    """Within the block SIGTERM and SIGALRM end the run of ``reporter``, once.

    SIGALRM comes from the reporter, for a run that does not ask whether it is to end, and from
    django-q2 when its own time-out is over. SIGTERM comes from django-q2 three seconds after
    that, and from whoever ends all processes of a cluster. Neither disturbs a run that cleans up;
    the process ends by SIGTERM when that is done.

    In another thread than the first, where signals cannot be handled, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminated = False
    raised_at = 0.0

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal terminated, raised_at
        if number == signal.SIGTERM:
            terminated = True
            reporter.end(Interrupted("the worker was stopped", hint="Request it again."))
        else:
            reporter.end(took_too_long(None))
        reason = reporter.reason_to_end()
        since = time.monotonic() - max(raised_at, reporter.asked_to_end_at)
        is_cleaning_up = reporter.knows_of_end and since < AGAIN_AFTER
        if reason is not None and not is_cleaning_up:
            reporter.knows_of_end = True
            raised_at = time.monotonic()
            raise reason

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGALRM)}
    reporter.interrupt_thread = threading.get_ident()
    try:
        yield
    finally:
        reporter.interrupt_thread = None
        for number, handler in before.items():
            signal.signal(number, handler)
        if terminated:
            signal.raise_signal(signal.SIGTERM)
