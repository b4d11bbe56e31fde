"""What people read of ``pgclone recover`` and ``pgclone doctor``."""

from __future__ import annotations

import pytest

from pgclone_admin.core.findings import Finding, Level
from pgclone_admin.core.recovery import Outcome, Recovered
from pgclone_admin.management.care_text import (
    WOULD,
    finding_lines,
    recovered_line,
    summary_line,
)


@pytest.mark.parametrize(
    ("dry_run", "line"),
    [
        (False, 'dropped the temporary database "x": its restore died'),
        (True, 'would drop the temporary database "x": its restore died'),
    ],
)
def test_one_line_says_what_was_done_with_what_and_why(line: str, *, dry_run: bool) -> None:
    item = Recovered(Outcome.DROPPED, 'the temporary database "x"', "its restore died")
    assert recovered_line(item, dry_run=dry_run) == line


def test_every_outcome_has_words_for_a_dry_run() -> None:
    assert set(WOULD) == set(Outcome)


def test_the_fix_stands_below_what_was_found() -> None:
    lines = list(finding_lines(Finding(Level.PROBLEM, "role", "it may not", "let it")))
    assert lines == ["problem  role         it may not", " " * 22 + "let it"]
    assert list(finding_lines(Finding(Level.OK, "role", "it may"))) == [
        "ok       role         it may"
    ]


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        ([Level.OK, Level.OK], "all is well"),
        ([Level.OK, Level.WARNING], "1 warning"),
        ([Level.PROBLEM, Level.WARNING, Level.PROBLEM], "2 problems, 1 warning"),
    ],
)
def test_the_last_line_counts(levels: list[Level], line: str) -> None:
    assert summary_line([Finding(level, "x", "y") for level in levels]) == line
