"""Shows on a terminal, or in a log, what an operation does."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from ..core.errors import Cancelled
from ..core.progress import Phase

REDRAW = 0.1
"""Seconds between two pictures of the bar."""

PLAIN_INTERVAL = 15.0
"""Seconds between two lines where there is no terminal."""

BAR_WIDTH = 24

INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ConsoleReporter:
    """A bar with bytes, rate and phase on a terminal, plain lines elsewhere; all on stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._lock = threading.RLock()
        self._phase = ""
        self._total: int | None = None
        self._done = 0
        self._started = self._shown = time.monotonic()
        self._drawn = False
        self.cancelled = threading.Event()

    def phase(self, name: Phase, *, total: int | None = None) -> None:
        with self._lock:
            self._end_phase()
            self._phase, self._total, self._done = name, total, 0
            self._started = self._shown = time.monotonic()
            if self._is_terminal:
                self._draw()
            else:
                self._line(name)

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._shown >= (REDRAW if self._is_terminal else PLAIN_INTERVAL):
                self._shown = now
                if self._is_terminal:
                    self._draw()
                else:
                    self._line(self._status())

    def note(self, message: str) -> None:
        with self._lock:
            self._line(message)

    def warn(self, message: str) -> None:
        with self._lock:
            self._line(f"warning: {message}")

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("cancelled", hint="Nothing was changed.")

    def is_to_end(self) -> bool:
        return self.cancelled.is_set()

    def close(self) -> None:
        """Leaves the terminal as it was found."""
        with self._lock:
            self._end_phase()

    def _end_phase(self) -> None:
        if self._done and self._phase:
            self._line(self._status(final=True))
        else:
            self._clear()
        self._phase, self._done = "", 0

    def _line(self, text: str) -> None:
        self._clear()
        self._stream.write(f"{text}\n")
        if self._is_terminal and self._phase:
            self._draw()
        self._stream.flush()

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[2K{self._status()[:width]}")
        self._stream.flush()
        self._drawn = True

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[2K")
            self._drawn = False

    def _status(self, *, final: bool = False) -> str:
        if not self._done:
            return self._phase
        seconds = max(time.monotonic() - self._started, 0.001)
        parts = [f"{self._phase:<10}"]
        if self._total and not final:
            share = min(self._done / self._total, 1.0)
            filled = round(share * BAR_WIDTH)
            parts.append(f"[{'#' * filled}{'-' * (BAR_WIDTH - filled)}] {share:4.0%}")
            parts.append(f"{human_size(self._done)} of {human_size(self._total)}")
        else:
            parts.append(human_size(self._done))
        parts.append(f"{human_size(self._done / seconds)}/s")
        parts.append(human_duration(seconds))
        return "  ".join(parts)


@contextmanager
def cancel_on_signals(reporter: ConsoleReporter) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the operation, in all of its threads; it cleans up then.

    A signal that is ignored stays so: nohup ignores SIGHUP for a command that is to go on. The
    reporter knows of one at once, so that a statement for which the main thread waits is cancelled.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        reporter.cancelled.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {
        number: signal.signal(number, interrupt)
        for number in INTERRUPTING
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        with _noticed_at_once(previous.keys(), reporter.cancelled):
            yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _noticed_at_once(numbers: Collection[int], noticed: threading.Event) -> Iterator[None]:
    """Sets the event by a thread of its own: no handler runs while the main thread waits for the
    server."""
    reading, writing = socket.socketpair()

    def watch() -> None:
        while arrived := reading.recv(64):
            if not noticed.is_set() and not set(arrived).isdisjoint(numbers):
                noticed.set()

    watcher = threading.Thread(target=watch, name="pgclone signal watch", daemon=True)
    with reading, writing:
        writing.setblocking(False)
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            writing.shutdown(socket.SHUT_WR)
            watcher.join()


def human_size(count: float) -> str:
    """Bytes as people read them, in powers of ten."""
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 1), ("GB", 1)):
        if round(count, digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def human_age(seconds: float) -> str:
    """How long ago, in the largest unit that fits."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(int(seconds), 0)} s"
