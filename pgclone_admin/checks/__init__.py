"""System checks: what is wrong with the settings, before it matters.

Importing this registers them.
"""

from __future__ import annotations

from .configuration import (
    check_anonymizing,
    check_kept_apps,
    check_old_setting_names,
    check_settings,
)
from .databases import check_connecting, check_kept_connections, check_routing
from .queue import check_longest_run, check_queue
from .servers import check_server, check_storage

__all__ = [
    "check_anonymizing",
    "check_connecting",
    "check_kept_apps",
    "check_kept_connections",
    "check_longest_run",
    "check_old_setting_names",
    "check_queue",
    "check_routing",
    "check_server",
    "check_settings",
    "check_storage",
]
