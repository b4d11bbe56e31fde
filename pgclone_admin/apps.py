"""The Django application."""

from __future__ import annotations

from django.apps import AppConfig, apps
from django.db.backends.signals import connection_created


class PgcloneAdminConfig(AppConfig):
    name = "pgclone_admin"
    verbose_name = "Dumps and restores"

    def ready(self) -> None:
        # checks registers itself, once apps are there.
        from . import checks, signals  # noqa: F401, PLC0415

        connection_created.connect(signals.notice_swap, dispatch_uid="pgclone_admin")
        if apps.is_installed("django_q"):
            from . import tasks  # noqa: PLC0415

            tasks.watch_workers()
