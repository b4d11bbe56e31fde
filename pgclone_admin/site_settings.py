"""Settings of the project and of other apps that this app reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

ROOM_TO_CLEAN_UP = 30
"""Seconds between the end of a run and the end of its worker, as far as there are so many."""


def usual_run_timeout() -> int | None:
    """Seconds after which a run is ended so that there is room to clean up; ``None`` where the
    cluster ends no worker."""
    cluster_timeout: int | None = cluster_settings().get("timeout")
    if not cluster_timeout:
        return None
    return max(cluster_timeout - ROOM_TO_CLEAN_UP, cluster_timeout // 2, 1)


def cluster_settings() -> Mapping[str, Any]:
    """Q_CLUSTER as the cluster of this process reads it."""
    configured = dict(getattr(django_settings, "Q_CLUSTER", None) or {})
    alternatives = configured.pop("ALT_CLUSTERS", None) or {}
    name = os.environ.get("Q_CLUSTER_NAME")
    return {**configured, **(alternatives.get(name) or {})} if name else configured


OF_STORAGES = ("AWS_", "AZURE_", "DROPBOX_", "FTP_", "GS_", "LIBCLOUD_", "SFTP_")
"""What the names of django-storages' own settings begin with."""


def settings_of_storages() -> dict[str, Any]:
    """The settings that django-storages reads where an alias has no option of that kind."""
    names = [name for name in dir(django_settings) if name.startswith(OF_STORAGES)]
    return {name: getattr(django_settings, name) for name in names}


def base_dir() -> Path:
    """Where relative paths begin: ``BASE_DIR`` of the project, else the current directory."""
    return Path(getattr(django_settings, "BASE_DIR", None) or Path.cwd())


def session_engine() -> str:
    """The module that keeps the sessions of the project."""
    return str(django_settings.SESSION_ENGINE)
