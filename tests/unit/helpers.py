"""Small makers for more than one file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SetDatabases = Callable[[Any], None]
"""The fixture ``set_databases``."""


def wait_for_file(path: Path) -> None:
    """Wait until a program has written the file."""
    until = time.monotonic() + 10
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)


def alias_settings(name: str, **changes: Any) -> dict[str, Any]:
    """One entry of DATABASES. Nothing listens there."""
    entry = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": "1",
        "USER": "app",
        "PASSWORD": "secret",
        "NAME": name,
    }
    return {**entry, **changes}


def three_aliases(**changes: Any) -> dict[str, dict[str, Any]]:
    """DATABASES with three aliases; ``changes`` are for ``default``."""
    return {
        "default": alias_settings("live", **changes),
        "reporting": alias_settings("reports"),
        "other": alias_settings("elsewhere", HOST="192.0.2.1"),
    }
