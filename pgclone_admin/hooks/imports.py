"""Modules of Python hooks, which are imported from beside them and then forgotten."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

from django.apps import apps

from ..core.errors import ConfigurationError, Conflict, PgcloneError

PATIENCE = 30.0
"""Seconds for which a look at a hook waits for those of other threads."""

LOOK_EVERY = 0.2

_numbers = count(1)

_lock = threading.RLock()
"""Held while ``sys.path`` and ``sys.modules``, which belong to all threads, are made for one hook.
A hook that runs hooks takes it once more."""


@contextmanager
def loaded(path: Path, base: Path, name: str, check: Callable[[], None]) -> Iterator[ModuleType]:
    """The file as a module; within the block modules beside it and in ``base`` can be imported.

    Nothing of it stays in ``sys.path`` or ``sys.modules``, so that two hooks may have a module of
    the same name beside them, and each run reads what is on the disk. Other threads wait for the
    end of the block, and call ``check`` meanwhile: a hook may import as late as when it runs.
    """
    module_name = f"pgclone_hook_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(
        module_name, path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    with _alone(check), _local_imports([path.parent, base], module_name):
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except PgcloneError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigurationError(
                f'the hook "{name}" cannot be loaded: {type(error).__name__}: {error}',
                hint=f"It was read from {path}.",
            ) from error
        yield module


def patience() -> Callable[[], None]:
    """A ``check`` for whoever only looks at a hook: :class:`Conflict` after ``PATIENCE``."""
    until = time.monotonic() + PATIENCE

    def check() -> None:
        if time.monotonic() > until:
            raise Conflict(
                "a hook is at work in another thread of this process, and others cannot be loaded",
                hint="Try again when it has ended. Nothing was changed.",
            )

    return check


@contextmanager
def _alone(check: Callable[[], None]) -> Iterator[None]:
    while not _lock.acquire(timeout=LOOK_EVERY):
        check()
    try:
        yield
    finally:
        _lock.release()


@contextmanager
def _local_imports(folders: list[Path], own_name: str) -> Iterator[None]:
    # What the project finds by itself stays as it is: an app may be imported by a hook for the
    # first time, and is not to be there twice.
    known = {Path(entry).resolve() for entry in sys.path}
    added = [str(f) for f in dict.fromkeys(each.resolve() for each in folders) if f not in known]
    hidden = _hide(_modules_in(added), added)
    before = set(sys.modules)
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)
            sys.path_importer_cache.pop(folder, None)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == own_name or _comes_from(sys.modules[name], added):
                del sys.modules[name]
        sys.modules.update(hidden)


def _modules_in(folders: list[str]) -> Set[str]:
    """Names that an import would find in the folders, apart from those of Python itself and of the
    apps of the project: another copy of their models would take their place in Django."""
    found = {
        entry.stem
        for folder in folders
        for entry in Path(folder).iterdir()
        if entry.suffix == ".py" or (entry / "__init__.py").exists()
    }
    installed = {config.name.partition(".")[0] for config in apps.get_app_configs()}
    return found - sys.stdlib_module_names - installed - {"django", "psycopg2", "psycopg"}


def _hide(names: Set[str], folders: list[str]) -> dict[str, Any]:
    """Takes other modules of these names out of ``sys.modules``, and returns them."""
    tops = {
        name
        for name in names
        if name in sys.modules and not _comes_from(sys.modules[name], folders)
    }
    return {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops
    }


def _comes_from(module: Any, folders: list[str]) -> bool:
    """Whether an import has found the module by one of these folders, and not by another entry of
    ``sys.path`` that lies deeper."""
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or [])]
    files = [Path(place).resolve() for place in places if place]
    others = {Path(entry).resolve() for entry in sys.path} - set(map(Path, folders))
    for file in files:
        found = [folder for folder in file.parents if folder in others or str(folder) in folders]
        if found and str(found[0]) in folders:
            return True
    return False
