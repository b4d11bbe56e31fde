"""Sends apps to databases, as the setting TEST_ROUTES of a test says."""

from __future__ import annotations

from typing import Any

from django.conf import settings


class ByLabel:
    """An app that is not named may be in any database."""

    def _alias(self, model: Any, **_hints: Any) -> str | None:
        alias: str | None = settings.TEST_ROUTES.get(model._meta.app_label)
        return alias

    db_for_read = db_for_write = _alias

    def allow_migrate(self, db: str, app_label: str, **_hints: Any) -> bool | None:
        alias = settings.TEST_ROUTES.get(app_label)
        return None if alias is None else alias == db
