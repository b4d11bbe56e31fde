"""Looks at everything that dumps and restores of a database need, and says how to mend it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import partial

from django.core.checks import ERROR
from django.core.checks.registry import registry

from ..core.doctor import ServerExamination, examine_server
from ..core.errors import PgcloneError
from ..core.findings import Finding, Level, fine, problem
from ..core.recovery import Outcome, Recovered
from ..core.replicas import is_standby
from ..databases import (
    live_name,
    maintenance_params,
    protected_names,
    settings_of,
    standby_candidates,
)
from ..kept import keeping
from ..options import Options
from ..routing import uses_pgconnection
from ..settings import settings
from ..store import DumpStore
from .recovery import recover_beside, recover_stored, recover_temporary

CHECKS_PACKAGE = "pgclone_admin.checks."
"""What the modules of this app's system checks begin with."""


def examine(options: Options) -> Iterator[Finding]:
    """Everything that a plan proves, without a dump, and more; never raises for what it finds.

    What does not need the server is looked at also when there is none.
    """
    settings_of(options.database)
    server_works = storage_works = True
    replicas = list(_replicas(options.database))
    reached = sum(finding.level is Level.OK for finding in replicas)
    for finding in _server(options, reached):
        is_in_vain = finding.level is Level.PROBLEM and finding.about in ("server", "settings")
        server_works = server_works and not is_in_vain
        yield finding
    yield from replicas
    for finding in _storage(options.storage_location):
        storage_works = storage_works and finding.level is not Level.PROBLEM
        yield finding
    yield from _leftovers(options, server=server_works, storage=storage_works)
    yield from _settings()


def _server(options: Options, reached_standbys: int) -> Iterator[Finding]:
    try:
        examination = ServerExamination(
            live=live_name(options.database),
            maintenance=maintenance_params(options.database),
            protected=protected_names(),
            program_directories=settings.bin_dirs,
            restores=settings.allow_restore,
            reached_standbys=reached_standbys,
            lose_settings=settings.lose_settings,
            keeping=partial(keeping, options.database),
        )
    except PgcloneError as error:
        yield problem("settings", error)
        return
    yield from examine_server(examination)


def _replicas(alias: str) -> Iterator[Finding]:
    """Servers of other aliases that read the same data, and would go on with what is replaced."""
    try:
        own, candidates = maintenance_params(alias), standby_candidates(alias)
    except PgcloneError:
        return  # what is wrong with the settings is told where the server is looked at
    for params in candidates:
        try:
            if is_standby(params, of=own):
                found = (
                    f"{params.where} is a standby in DATABASES, whose sessions a restore ends too"
                )
                yield fine("replication", found)
        except PgcloneError as error:
            yield Finding(
                Level.WARNING,
                "replication",
                f"whether {params.where}, which is in DATABASES, is a standby cannot be told: "
                f"{error.message}; sessions there may go on reading what a restore replaces",
                error.hint or "Let this machine reach it.",
            )


def _storage(location: str) -> Iterator[Finding]:
    named = without_credentials(location)
    try:
        store = DumpStore(location)
        if settings.allow_dump:
            store.prove()
            done = "something was stored, listed, read back and deleted in"
        else:
            store.entries()
            done = "dumps are not allowed here, so nothing was stored; listing works in"
    except PgcloneError as error:
        found = problem("storage", error)
        yield Finding(found.level, "storage", f"{named}: {found.found}", found.fix)
        return
    yield fine("storage", f"{done} {named}")


def without_credentials(location: str) -> str:
    """A storage location as it may be shown; a URI can hold a password."""
    return re.sub(r"(//)[^/@]*@", r"\1***@", location)


def _leftovers(options: Options, *, server: bool, storage: bool) -> Iterator[Finding]:
    """What ``pgclone recover`` would clean."""
    found: list[Recovered] = []
    if server:
        found += recover_beside(options, dry_run=True)
    if storage:
        found += recover_stored(options, dry_run=True)
    found += recover_temporary(tempfile.gettempdir(), dry_run=True)
    for item in found:
        text = f"{item.what}: {item.why}"
        match item.outcome:
            case Outcome.KEPT:
                yield fine("leftovers", text)
            case Outcome.FAILED:
                yield Finding(Level.PROBLEM, "leftovers", text, "See what it says.")
            case _:
                yield Finding(Level.WARNING, "leftovers", text, "Run: manage.py pgclone recover")
    if not found:
        yield fine("leftovers", "nothing was left behind by a process that died")


def _settings() -> Iterator[Finding]:
    sound = True
    for check in registry.get_checks():
        if not check.__module__.startswith(CHECKS_PACKAGE):
            continue
        # Without a database: the server and the storage are looked at in more detail.
        for message in check(app_configs=None, databases=None):
            sound = False
            level = Level.PROBLEM if message.level >= ERROR else Level.WARNING
            yield Finding(level, "settings", str(message.msg), str(message.hint or "Correct it."))
    if not sound:
        return
    yield fine("settings", "the system checks of pgclone_admin find nothing")
    way = "django-pgconnection" if uses_pgconnection() else "connections that are replaced"
    yield fine("settings", f"hooks reach the temporary database by {way}")
    switches = {
        "PGCLONE_ALLOW_DUMP": settings.allow_dump,
        "PGCLONE_ALLOW_RESTORE": settings.allow_restore,
        "PGCLONE_ALLOW_COPY": settings.allow_copy,
    }
    for name, value in switches.items():
        if not value:
            yield fine("settings", f"{name} is False; what only it needs was not looked at")
