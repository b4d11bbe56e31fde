"""Takes in archives that people bring."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from ..core.progress import SilentReporter
from ..models import Dump, Status
from ..options import Arguments, resolve
from . import actors
from .actors import Actor
from .audit import audit
from .dumps import import_archive


def import_dump(actor: Actor, given: Mapping[str, Any], path: Path) -> Dump:
    """Stores the archive ``path`` as a foreign dump and makes its row.

    ``given`` may name ``database`` and ``instance``. The archive is read twice, so this takes as
    long as its size demands.
    """
    actor.require(actors.DUMP)
    options = resolve(Arguments(database=given.get("database")), verb="dump")
    started = timezone.now()
    manifest = import_archive(options, path, SilentReporter(), instance=given.get("instance"))
    with transaction.atomic():
        # A refresh may have seen the file already.
        dump, _is_new = Dump.objects.update_or_create(
            location=options.storage_location,
            key=manifest.key,
            defaults={
                "status": Status.SUCCEEDED,
                "instance": manifest.instance,
                "database": manifest.database,
                "config": manifest.config,
                "taken_at": datetime.fromisoformat(manifest.taken_at),
                "size": manifest.size,
                "manifest": dataclasses.asdict(manifest),
                "requested_by": actor.name,
                "started_at": started,
                "finished_at": timezone.now(),
            },
        )
        audit(dump, actor, "imported an archive")
    return dump
