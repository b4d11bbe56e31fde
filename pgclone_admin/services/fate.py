"""What became of the live database in a run whose worker can no longer say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import PgcloneError
from ..core.locks import is_locked
from ..core.progress import Phase
from ..core.refusals import refusing
from ..core.server import Server
from ..databases import live_name, maintenance_params
from ..hooks.running import ENDED
from ..models import REPLACING, RestoreRun, Run, RunEvent
from ..options import Arguments, resolve
from .restores import ready_swap_hooks

LOOK = "Look at what is there, then request it again."


@dataclass(frozen=True)
class Fate:
    """``told`` follows the sentence that says why the run was given up."""

    told: str = ""
    hint: str = LOOK


def fate_of(run: Run) -> Fate:
    """Whether the run has replaced the live database, and which hooks after that may be missing.

    Told by the oids, as of the swap itself; nothing is told where they cannot be compared, or a
    restore of this database is at work.
    """
    if not isinstance(run, RestoreRun) or run.kind not in REPLACING or run.live_oid is None:
        return Fate()
    try:
        live = live_name(run.database)
        if run.target != live:
            return Fate()
        with refusing(), Server.connected(maintenance_params(run.database)) as server:
            if server.system_identifier != run.system_identifier or is_locked(server, live):
                return Fate()
            present = server.database(live)
    except PgcloneError:
        return Fate()
    if (0 if present is None else present.oid) == run.live_oid:
        return Fate(", before its swap", f"The live database was not replaced. {LOOK}")
    return Fate(
        ", but after its swap",
        " ".join(["What it has restored is live. Do not request it again.", *_about_hooks(run)]),
    )


def _about_hooks(run: RestoreRun) -> Sequence[str]:
    try:
        arguments = Arguments(**run.options.get("arguments", {}))
        hooks = ready_swap_hooks(resolve(arguments, verb="restore"))
    except (PgcloneError, TypeError):
        return ["Hooks after the swap may not have run."]
    names = [hook.labels.name for hook in hooks]
    began = run.events.filter(level=RunEvent.Level.PHASE, text=Phase.HOOKS_AFTER_SWAP).last()
    if began is not None:
        ended = run.events.filter(pk__gt=began.pk, text__startswith=ENDED)
        names = names[ended.count() :]
    if not names:
        return []
    return ["Hooks after the swap that may not have run, or not to their end: " + ", ".join(names)]
