"""What a person sees while an operation works."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pgclone_admin.core.errors import Cancelled
from pgclone_admin.management import console
from pgclone_admin.management.console import (
    INTERRUPTING,
    ConsoleReporter,
    cancel_on_signals,
    human_age,
    human_duration,
    human_size,
)


class Stream(io.StringIO):
    """Standard error that is, or is not, a terminal of 60 columns."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def screen(self) -> list[str]:
        """What stands on the terminal at the end, line by line."""
        lines = []
        for line in self.getvalue().split("\n"):
            rest = line
            while "\r\x1b[2K" in rest:
                rest = rest.partition("\r\x1b[2K")[2]
            lines.append(rest)
        return lines


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console.time, "monotonic", clock.monotonic)
    monkeypatch.setenv("COLUMNS", "60")
    return clock


@pytest.fixture
def plain() -> Stream:
    return Stream(terminal=False)


@pytest.fixture
def terminal() -> Stream:
    return Stream(terminal=True)


# -- where there is no terminal -------------------------------------------------------------------


def test_without_a_terminal_there_are_plain_lines(plain: Stream, clock: Clock) -> None:
    reporter = ConsoleReporter(plain)
    reporter.phase("checking")
    reporter.phase("dumping", total=10_000_000)
    for _ in range(100):
        clock.now += 0.5
        reporter.advance(100_000)
    reporter.note("a sentence")
    reporter.warn("look out")
    reporter.phase("finishing")
    reporter.close()
    assert plain.getvalue().splitlines() == [
        "checking",
        "dumping",
        "dumping     [#######-----------------]  30%  3.0 MB of 10.0 MB  200 kB/s  0:15",
        "dumping     [##############----------]  60%  6.0 MB of 10.0 MB  200 kB/s  0:30",
        "dumping     [######################--]  90%  9.0 MB of 10.0 MB  200 kB/s  0:45",
        "a sentence",
        "warning: look out",
        "dumping     10.0 MB  200 kB/s  0:50",
        "finishing",
    ]


def test_without_a_terminal_nothing_moves_the_cursor(plain: Stream, clock: Clock) -> None:
    reporter = ConsoleReporter(plain)
    reporter.phase("dumping")
    for _ in range(1000):
        clock.now += 1
        reporter.advance(1)
    reporter.close()
    assert "\r" not in plain.getvalue()
    assert "\x1b" not in plain.getvalue()


def test_a_phase_without_bytes_ends_without_a_word(plain: Stream) -> None:
    reporter = ConsoleReporter(plain)
    reporter.phase("checking")
    reporter.phase("swapping")
    reporter.close()
    reporter.close()
    assert plain.getvalue() == "checking\nswapping\n"


def test_more_bytes_than_were_forecast_are_no_more_than_everything(
    plain: Stream, clock: Clock
) -> None:
    reporter = ConsoleReporter(plain)
    reporter.phase("dumping", total=10)
    clock.now += 20
    reporter.advance(50)
    assert "[########################] 100%  50 B of 10 B" in plain.getvalue()


# -- on a terminal --------------------------------------------------------------------------------


def test_on_a_terminal_a_bar_is_drawn_over_itself(terminal: Stream, clock: Clock) -> None:
    reporter = ConsoleReporter(terminal)
    reporter.phase("restoring", total=1_000)
    for _ in range(10):
        clock.now += 0.2
        reporter.advance(50)
    assert terminal.getvalue().count("\n") == 0
    # Cut at the width of the terminal, one column of which is left free.
    assert terminal.screen[-1] == "restoring   [############------------]  50%  500 B of 1 kB "
    # It never wraps.
    assert all(len(piece) < 60 for piece in terminal.getvalue().split("\r\x1b[2K"))


def test_the_bar_is_not_drawn_more_often_than_anybody_can_see(
    terminal: Stream, clock: Clock
) -> None:
    reporter = ConsoleReporter(terminal)
    reporter.phase("dumping", total=10**9)
    for _ in range(10_000):
        clock.now += 0.001
        reporter.advance(1)
    assert 50 <= terminal.getvalue().count("\r") <= 110


def test_a_sentence_stands_above_the_bar(terminal: Stream, clock: Clock) -> None:
    reporter = ConsoleReporter(terminal)
    reporter.phase("hooks")
    reporter.note("running the hook migrate")
    assert terminal.screen == ["running the hook migrate", "hooks"]
    reporter.warn("look out")
    assert terminal.screen == ["running the hook migrate", "warning: look out", "hooks"]


def test_the_terminal_is_left_as_it_was_found(terminal: Stream, clock: Clock) -> None:
    reporter = ConsoleReporter(terminal)
    reporter.phase("dumping", total=100)
    clock.now += 1
    reporter.advance(100)
    reporter.phase("finishing")
    reporter.close()
    assert terminal.screen == ["dumping     100 B  100 B/s  0:01", ""]
    reporter.note("at the end")
    assert terminal.screen == ["dumping     100 B  100 B/s  0:01", "at the end", ""]


def test_threads_may_report_at_the_same_time(plain: Stream) -> None:
    reporter = ConsoleReporter(plain)

    def report(name: str) -> None:
        for number in range(200):
            reporter.note(f"{name} {number}")
            reporter.advance(1)

    threads = [threading.Thread(target=report, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = plain.getvalue().splitlines()
    assert len(lines) == 600
    assert all(re.fullmatch(r"[abc] \d+", line) for line in lines)


# -- signals --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in INTERRUPTING}
    yield
    after = {number: signal.getsignal(number) for number in INTERRUPTING}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize("number", INTERRUPTING, ids=lambda number: number.name)
def test_a_signal_ends_the_operation_in_every_thread(plain: Stream, number: int) -> None:
    reporter = ConsoleReporter(plain)
    reporter.check()

    def work() -> None:
        with cancel_on_signals(reporter):
            os.kill(os.getpid(), number)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        work()
    with pytest.raises(Cancelled) as caught:
        reporter.check()
    assert caught.value.code == "cancelled"


def test_a_signal_that_is_ignored_stays_so(plain: Stream) -> None:
    # What nohup does.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        reporter = ConsoleReporter(plain)
        with cancel_on_signals(reporter):
            os.kill(os.getpid(), signal.SIGHUP)
        reporter.check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_signals_are_left_alone(plain: Stream) -> None:
    seen = []

    def work() -> None:
        with cancel_on_signals(ConsoleReporter(plain)):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (123_456, "123 kB"),
        (999_499, "999 kB"),
        (999_999, "1.0 MB"),
        (1_000_000, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (999_990_000, "1.0 GB"),
        (1_500_000_000, "1.5 GB"),
        (2_000_000_000_000, "2.0 TB"),
        (5_000_000_000_000_000, "5000.0 TB"),
    ],
)
def test_bytes_are_written_as_people_read_them(count: int, text: str) -> None:
    assert human_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (9.4, "0:09"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3600, "1:00:00"),
        (3725, "1:02:05"),
    ],
)
def test_durations_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (7200, "2 h"),
        (86_399, "23 h"),
        (86_400, "1 d"),
        (86_400 * 400, "400 d"),
    ],
)
def test_ages_are_written_in_their_largest_unit(seconds: float, text: str) -> None:
    assert human_age(seconds) == text
