"""Hooks: steps of the project that run before a dump, on a restored database, or after a swap.

A hook is a management command, SQL, a Python file with a class ``Hook``, or the built-in one that
anonymizes. They are written down as texts and mappings (:mod:`.spec`), checked and loaded
(:mod:`.loading`), and run (:mod:`.running`).
"""

from __future__ import annotations

from ..settings import HookSpec
from .base import HookResult, Stage
from .loading import AnyHook, check_params, load_hooks
from .python import HookBase
from .running import run_hooks

__all__ = [
    "AnyHook",
    "HookBase",
    "HookResult",
    "HookSpec",
    "Stage",
    "check_params",
    "load_hooks",
    "run_hooks",
]
