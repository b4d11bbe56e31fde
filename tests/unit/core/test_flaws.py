"""Which client programs have a flaw that a crafted dump can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgclone_admin.core.programs import Program, open_flaws, version_without_flaws

ALL = ["CVE-2025-8715", "CVE-2026-18408", "CVE-2026-116314"]


@pytest.mark.parametrize(
    ("version", "flaws"),
    [
        ((18, 7), []),
        ((18, 6), ALL[2:]),
        ((18, 5), ALL[1:]),
        ((18, 0), ALL[1:]),
        ((17, 12), []),
        ((17, 5), ALL),
        ((16, 15), ALL[2:]),
        ((15, 18), ALL[1:]),
        ((14, 25), []),
        ((13, 22), ALL[1:]),
        ((12, 22), ALL),
        ((19, 0), []),
    ],
)
def test_f42_a_pg_restore_that_is_too_old_has_the_flaws_of_its_version(
    version: tuple[int, int], flaws: list[str]
) -> None:
    assert open_flaws(Program(*version, Path("pg_restore"))) == flaws


@pytest.mark.parametrize("major", [9, 13, 14, 15, 16, 17, 18])
def test_f42_the_version_that_is_asked_for_has_no_flaw(major: int) -> None:
    named = version_without_flaws(major)
    fixed_major, minor = map(int, named.split("."))
    assert fixed_major == max(major, 14)
    assert open_flaws(Program(fixed_major, minor, Path("pg_restore"))) == []
    assert open_flaws(Program(fixed_major, minor - 1, Path("pg_restore"))) != []
