"""The Django application."""

from __future__ import annotations

from django.apps import AppConfig


class PgcloneAdminConfig(AppConfig):
    name = "pgclone_admin"
    verbose_name = "Dumps and restores"

    def ready(self) -> None:
        from . import checks  # noqa: F401, PLC0415 - registers itself once apps are there
