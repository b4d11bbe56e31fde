"""What a hook writes: told by the line, at once, and without secrets."""

from __future__ import annotations

import pytest

from pgclone_admin.core.progress import SilentReporter
from pgclone_admin.hooks import base
from pgclone_admin.hooks.base import LONGEST_LINE, OUTPUT_TAIL, Output


class Told:
    def __init__(self, *secrets: str) -> None:
        self.reporter = SilentReporter()
        self.output = Output(self.reporter, secrets)

    @property
    def lines(self) -> list[str]:
        return [note[2:] for note in self.reporter.notes]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_end_in_every_way_and_wherever_a_write_ends(size: int) -> None:
    told = Told()
    text = "one\ntwo\r\n\nthree\r\n"
    for start in range(0, len(text), size):
        told.output.write(text[start : start + size])
    told.output.finish()
    assert told.lines == ["one", "two", "", "three"]
    assert told.output.tail == "one\ntwo\n\nthree\n"


def test_a_bar_that_is_drawn_again_and_again_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    now = 100.0
    monkeypatch.setattr(base.time, "monotonic", lambda: now)
    told.output.line("loading")
    for percent in range(1000):
        now += 0.01
        told.output.write(f"\r{percent / 10} % " + "#" * 70)
    assert len(told.lines) == 11
    assert told.lines[1].startswith("0.0 %")
    assert len(told.output.tail) < 200
    told.output.write("\n")
    told.output.line("done")
    told.output.finish()
    assert told.lines[-2].startswith("99.9 %")
    assert told.output.tail == f"loading\n99.9 % {'#' * 70}\ndone\n"


def test_a_line_that_does_not_end_is_told_and_does_not_grow() -> None:
    told = Told()
    for _number in range(1000):
        told.output.write("0123456789")
    assert told.lines == ["0123456789" * (LONGEST_LINE // 10)] * 2
    told.output.finish()
    assert "".join(told.lines) == "0123456789" * 1000
    assert told.output.tail == ("0123456789" * 1000 + "\n")[-OUTPUT_TAIL:]


@pytest.mark.parametrize("before", range(LONGEST_LINE - 12, LONGEST_LINE + 13))
def test_no_secret_is_told_where_a_long_line_is_cut(before: int) -> None:
    secret = "correct horse"
    for size in (7, 100_000):
        told = Told(secret, "x" * 8)
        text = "-" * before + secret + "-" * 5000
        for start in range(0, len(text), size):
            told.output.write(text[start : start + size])
        told.output.finish()
        assert "".join(told.lines) == "-" * before + "***" + "-" * 5000
