"""The pages in Django's admin."""

from __future__ import annotations

from . import actions, configurations, dumps, local, runs

__all__ = ["actions", "configurations", "dumps", "local", "runs"]
