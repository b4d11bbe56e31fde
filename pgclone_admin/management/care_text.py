"""What ``pgclone recover`` and ``pgclone doctor`` have found, as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..core.findings import Finding, Level
from ..core.recovery import Outcome, Recovered

LEVEL_WIDTH = 9
ABOUT_WIDTH = 13

WOULD = {
    Outcome.DROPPED: "would drop",
    Outcome.FINISHED: "would finish",
    Outcome.REMOVED: "would remove",
    Outcome.ABORTED: "would abort",
    Outcome.GIVEN_UP: "would give up",
    Outcome.KEPT: "would keep",
    Outcome.FAILED: "cannot clean",
}


def recovered_line(item: Recovered, *, dry_run: bool) -> str:
    """What was done with what, and why."""
    done = WOULD[item.outcome] if dry_run else item.outcome.value
    return f"{done} {item.what}: {item.why}"


def finding_lines(finding: Finding) -> Iterator[str]:
    """How it is, and below it how to mend it."""
    yield f"{finding.level.value:<{LEVEL_WIDTH}}{finding.about:<{ABOUT_WIDTH}}{finding.found}"
    if finding.fix:
        yield " " * (LEVEL_WIDTH + ABOUT_WIDTH) + finding.fix


def summary_line(findings: Sequence[Finding]) -> str:
    """How many of each."""
    counts = [
        (sum(finding.level is level for finding in findings), level.value)
        for level in (Level.PROBLEM, Level.WARNING)
    ]
    told = [f"{count} {level}{'' if count == 1 else 's'}" for count, level in counts if count]
    return ", ".join(told) or "all is well"
