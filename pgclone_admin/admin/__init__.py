"""The pages in Django's admin."""

from __future__ import annotations

from . import configurations, dumps, local, runs

__all__ = ["configurations", "dumps", "local", "runs"]
