"""Turns what was measured into Markdown, and puts it into the documentation."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cases import OURS, PEER, RAW_DUMP, RAW_FLOOR, RAW_JOBS, RAW_PIPE
from .measure import Outcome

TITLES = {
    "dump-file": "Dump to a file",
    "dump-s3": "Dump to S3",
    "restore-file": "Restore from a file",
    "restore-s3": "Restore from S3",
    "restore-last": "The largest table last",
    "memory": "Memory",
    "swap": "The swap",
    "objects": "Very many objects",
}


@dataclass(frozen=True)
class Goal:
    """One figure that is to be reached; ``reached`` is None while nobody has measured it."""

    text: str
    value: float
    limit: float
    unit: str = ""

    @property
    def reached(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        mark = "reached" if self.reached else "MISSED"
        return (
            f"{self.text}: {self.value:.2f}{self.unit} (goal: {self.limit:.2f}{self.unit}, {mark})"
        )


@dataclass(frozen=True)
class MemoryUse:
    """MB of the Python process, idle and at most, and of the client program."""

    work: str
    database: float
    loaded: float
    highest: float
    client: float

    @property
    def above(self) -> float:
        return self.highest - self.loaded


Results = Mapping[str, Sequence[Outcome]]
"""label -> one outcome for each round"""


def median(outcomes: Sequence[Outcome]) -> float:
    return statistics.median(outcome.seconds for outcome in outcomes)


def timing_table(group: str, results: Results) -> str:
    """A table of one group of cases, with a caption."""
    size = "dump MB" if group.startswith("dump") else "restored MB"
    base = next(label for label in (PEER, RAW_PIPE, RAW_DUMP) if label in results)
    lines = [
        (
            f"| case | wall s, min / median / max | of {_code(base)} | client CPU s | {size}"
            " | memory MB | others |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    peer = median(results[base])
    for label, outcomes in results.items():
        seconds = sorted(outcome.seconds for outcome in outcomes)
        spread = " / ".join(f"{value:.1f}" for value in (seconds[0], median(outcomes), seconds[-1]))
        ratio = f"{median(outcomes) / peer:.2f}"
        cpu = statistics.median(outcome.cpu for outcome in outcomes)
        sizes = statistics.median(outcome.size for outcome in outcomes) / 1e6
        others = statistics.median(outcome.others for outcome in outcomes)
        name = f"**{label}**" if label == OURS else _code(label)
        lines.append(
            f"| {name} | {spread} | {ratio} | {cpu:.1f} |"
            f" {f'{sizes:.0f}' if sizes else ''} | {_memory(outcomes)} |"
            f" {others:.0%} |"
        )
    return "\n".join(lines)


def _code(label: str) -> str:
    return f"`{label}`" if label.startswith("pg_") else label


def _memory(outcomes: Sequence[Outcome]) -> str:
    largest: dict[str, float] = {}
    for outcome in outcomes:
        for name, megabytes in outcome.memory.items():
            program = re.sub(r"^python[\d.]*$", "python", name)
            largest[program] = max(largest.get(program, 0.0), megabytes)
    named = sorted(largest.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in named if megabytes >= 1)


def memory_table(uses: Sequence[MemoryUse]) -> str:
    lines = [
        "| work | database MB | loaded MB | at most MB | above it MB | client program MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {use.work} | {use.database:.0f} | {use.loaded:.0f} | {use.highest:.0f} |"
        f" {use.above:.0f} | {use.client:.0f} |"
        for use in uses
    ]
    return "\n".join(lines)


def timing_goals(group: str, results: Results) -> list[Goal]:
    if OURS not in results:
        return []
    ours = median(results[OURS])
    goals = []
    if PEER in results:
        limit = {"dump-file": 0.25, "dump-s3": 0.30, "restore-file": 0.80, "restore-s3": 0.75}
        text = f"{TITLES[group].lower()}, of {PEER}"
        goals.append(Goal(text, ours / median(results[PEER]), limit[group]))
    if group == "dump-file" and RAW_FLOOR in results:
        goals.append(Goal(f"of `{RAW_FLOOR}`", ours / median(results[RAW_FLOOR]), 1.25))
    if group == "restore-last":
        text = f"the largest table last, of `{RAW_PIPE}`"
        goals.append(Goal(text, ours / median(results[RAW_PIPE]), 0.90))
    if group == "restore-file" and RAW_JOBS in results:
        limit_seconds = 1.1 * median(results[RAW_JOBS]) + 1
        goals.append(Goal(f"1.1 of `{RAW_JOBS}` and a second", ours, limit_seconds, " s"))
    return goals


def memory_goals(uses: Sequence[MemoryUse]) -> list[Goal]:
    limits = {"dump": 70.0, "restore": 40.0}
    return [
        Goal(
            f"memory of a {use.work} of {use.database:.0f} MB above the loaded process",
            use.above,
            limits[use.work],
            " MB",
        )
        for use in uses
    ]


def rounds(number: int) -> str:
    return "1 round" if number == 1 else f"{number} rounds"


def machine() -> str:
    """What the figures were measured on, without anything that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {memory:.0f} GB of memory, {platform.system()} {platform.machine()}"


def write_docs(path: Path, sections: Mapping[str, str]) -> None:
    """Puts each section between its markers in the document."""
    text = path.read_text(encoding="utf-8")
    for name, content in sections.items():
        begin, end = f"<!-- benchmark {name} -->", f"<!-- end of {name} -->"
        before, marker, rest = text.partition(begin)
        _old, closing, after = rest.partition(end)
        if not marker or not closing:
            raise SystemExit(f"{path.name} has no place for {name}: {begin} ... {end}")
        text = f"{before}{begin}\n{content.strip()}\n{end}{after}"
    path.write_text(text, encoding="utf-8")
