"""Every PGCLONE_* setting: its default, its type and what it means.

Read when it is asked for, so that ``override_settings`` works. A value of the wrong type is a
:class:`~pgclone_admin.core.errors.ConfigurationError`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.db import DEFAULT_DB_ALIAS

from .core.errors import ConfigurationError
from .core.programs import Codec
from .site_settings import base_dir, usual_run_timeout

VERSION_1_HOOK_SETTINGS = {
    "PGCLONE_PRE_DUMP_HOOKS": "PRE_DUMP_HOOKS",
    "PGCLONE_PRE_SWAP_HOOKS": "PRE_SWAP_HOOKS",
}
"""Names without the prefix, as the documentation of django-pgclone has them."""


HookSpec = str | Mapping[str, Any]
"""One entry of a list of hooks, as it is written down."""

KEPT_BY_DEFAULT = ("pgclone_admin", "django_q", "sessions")

MOST_DAYS = 36_500


class Settings:
    """The settings as attributes."""

    @property
    def storage_location(self) -> str:
        """PGCLONE_STORAGE_LOCATION: where dumps are kept, ``.pgclone/`` by default.

        A directory (a relative one lies in ``BASE_DIR``), ``s3://bucket/prefix/``, or
        ``storages:<alias>/prefix/`` for an alias of Django's STORAGES.
        """
        return str(_get("STORAGE_LOCATION", ".pgclone/", str, os.PathLike))

    @property
    def instance(self) -> str:
        """PGCLONE_INSTANCE: label of where dumps are made, the host name by default."""
        return str(_get("INSTANCE", socket.gethostname(), str))

    @property
    def database(self) -> str:
        """PGCLONE_DATABASE: alias of the database that is meant when none is named."""
        return str(_get("DATABASE", DEFAULT_DB_ALIAS, str))

    @property
    def configs(self) -> Mapping[str, Any]:
        """PGCLONE_CONFIGS: named sets of options for ``-c``."""
        return _mapping("CONFIGS")

    @property
    def dump_configs(self) -> Mapping[str, Any]:
        """PGCLONE_DUMP_CONFIGS of 1.x: for dumps; ``default`` applies without ``-c``."""
        return _mapping("DUMP_CONFIGS")

    @property
    def restore_configs(self) -> Mapping[str, Any]:
        """PGCLONE_RESTORE_CONFIGS of 1.x: for restores; ``default`` applies without ``-c``."""
        return _mapping("RESTORE_CONFIGS")

    @property
    def allow_dump(self) -> bool:
        """PGCLONE_ALLOW_DUMP: whether dumps may be made here, ``True`` by default."""
        return bool(_get("ALLOW_DUMP", True, bool))

    @property
    def allow_restore(self) -> bool:
        """PGCLONE_ALLOW_RESTORE: whether databases may be replaced here, ``True`` by default."""
        return bool(_get("ALLOW_RESTORE", True, bool))

    @property
    def allow_copy(self) -> bool:
        """PGCLONE_ALLOW_COPY: whether local copies may be made here, ``True`` by default."""
        return bool(_get("ALLOW_COPY", True, bool))

    @property
    def exclude(self) -> list[str]:
        """PGCLONE_EXCLUDE: models (``app.Model``) whose rows dumps leave out."""
        return as_list(_get("EXCLUDE", [], list, tuple, str), "PGCLONE_EXCLUDE")

    @property
    def reversible(self) -> bool:
        """PGCLONE_REVERSIBLE: whether restores keep ``:pre`` and ``:post``."""
        return bool(_get("REVERSIBLE", False, bool))

    @property
    def pre_dump_hooks(self) -> list[HookSpec]:
        """PGCLONE_PRE_DUMP_HOOKS: run on the live database before a dump; none by default."""
        return _hooks("PGCLONE_PRE_DUMP_HOOKS", [])

    @property
    def pre_swap_hooks(self) -> list[HookSpec]:
        """PGCLONE_PRE_SWAP_HOOKS: run on the temporary database, ``["migrate"]`` by default."""
        return _hooks("PGCLONE_PRE_SWAP_HOOKS", ["migrate"])

    @property
    def post_swap_hooks(self) -> list[HookSpec]:
        """PGCLONE_POST_SWAP_HOOKS: run on the live database after a swap; none by default."""
        return _hooks("PGCLONE_POST_SWAP_HOOKS", [])

    @property
    def hook_params(self) -> Mapping[str, Any]:
        """PGCLONE_HOOK_PARAMS: values of the parameters that hooks declare."""
        return _mapping("HOOK_PARAMS")

    @property
    def hook_timeout(self) -> float | None:
        """PGCLONE_HOOK_TIMEOUT: seconds after which a hook has failed, unless it names its own;
        without end by default."""
        value = _get("HOOK_TIMEOUT", None, int, float)
        if value is None:
            return None
        if value <= 0:
            raise ConfigurationError("PGCLONE_HOOK_TIMEOUT has to be a number of seconds above 0")
        return float(value)

    @property
    def require_anonymized(self) -> bool:
        """PGCLONE_REQUIRE_ANONYMIZED: whether every restore needs a hook that anonymizes, and every
        dump an anonymized database; ``False`` by default."""
        return bool(_get("REQUIRE_ANONYMIZED", False, bool))

    @property
    def keep_failed(self) -> bool:
        """PGCLONE_KEEP_FAILED: whether the temporary database of a restore is kept when a hook has
        failed, for a look at it, and when the swap could not be made, as held; ``True`` by
        default."""
        return bool(_get("KEEP_FAILED", True, bool))

    @property
    def keep_apps(self) -> list[str]:
        """PGCLONE_KEEP_APPS: labels of the apps whose tables belong to the running site.

        Their rows are left out of dumps and stay as they are in a restore. By default
        ``pgclone_admin``, ``django_q`` and ``sessions``, as far as they are installed.
        """
        value = _get("KEEP_APPS", None, list, tuple)
        if value is None:
            return [label for label in KEPT_BY_DEFAULT if label in apps.app_configs]
        labels = as_list(value, "PGCLONE_KEEP_APPS")
        if unknown := [label for label in labels if label not in apps.app_configs]:
            raise ConfigurationError(
                f"PGCLONE_KEEP_APPS names apps that are not installed: {', '.join(unknown)}",
                hint="It holds labels of apps, such as sessions for django.contrib.sessions.",
            )
        return labels

    @property
    def swap_timeout(self) -> int:
        """PGCLONE_SWAP_TIMEOUT: seconds for which a swap is tried again while the site is too busy
        for it, 60 by default."""
        return int(_number("SWAP_TIMEOUT", 60, least=0, unit="seconds"))

    @property
    def run_timeout(self) -> int | None:
        """PGCLONE_RUN_TIMEOUT: seconds after which a run in a worker is ended and cleaned up.

        By default 30 seconds less than the ``timeout`` of Q_CLUSTER, after which django-q2 kills
        the worker; none where that has none.
        """
        seconds: int | None = _number("RUN_TIMEOUT", None, least=1, unit="seconds")
        return usual_run_timeout() if seconds is None else seconds

    @property
    def stall_timeout(self) -> float | None:
        """PGCLONE_STALL_TIMEOUT: seconds in which pg_dump has to send something, and a storage to
        take or give something, 1800 by default; 0 waits without end."""
        seconds = _number("STALL_TIMEOUT", 1800, least=0, unit="seconds", kinds=(int, float))
        return float(seconds) or None

    @property
    def ignore_standbys(self) -> bool:
        """PGCLONE_IGNORE_STANDBYS: whether sessions on standbys that are not in DATABASES may go on
        reading a database that was replaced, ``False`` by default."""
        return bool(_get("IGNORE_STANDBYS", False, bool))

    @property
    def lose_settings(self) -> list[str]:
        """PGCLONE_LOSE_SETTINGS: names of settings and grants of a database that may be lost where
        the role that restores cannot carry them over, none by default."""
        return as_list(_get("LOSE_SETTINGS", [], list, tuple), "PGCLONE_LOSE_SETTINGS")

    @property
    def conn_db(self) -> str:
        """PGCLONE_CONN_DB: the maintenance database, ``postgres`` by default.

        This app connects to it to create, rename and drop others, and holds its locks there.
        """
        return str(_get("CONN_DB", None, str) or "postgres")

    @property
    def connections(self) -> Mapping[str, Mapping[str, Any]]:
        """PGCLONE_CONNECTIONS: per alias, HOST, PORT, USER, PASSWORD and OPTIONS for this app.

        For sites whose own connection goes through a pooler, or whose role lacks CREATEDB.
        """
        return _mapping("CONNECTIONS")

    @property
    def statement_timeout(self) -> int | None:
        """PGCLONE_STATEMENT_TIMEOUT: milliseconds for one statement of maintenance work."""
        return _milliseconds("STATEMENT_TIMEOUT")

    @property
    def lock_timeout(self) -> int | None:
        """PGCLONE_LOCK_TIMEOUT: milliseconds that maintenance work and pg_dump wait for a lock."""
        return _milliseconds("LOCK_TIMEOUT")

    @property
    def temporary_days(self) -> int:
        """PGCLONE_TEMPORARY_DAYS: days after which ``pgclone recover`` drops a temporary database
        that was kept after a failed hook, and a held one; 7 by default."""
        return int(_number("TEMPORARY_DAYS", 7, least=0, most=MOST_DAYS, unit="days"))

    @property
    def max_disk_bytes(self) -> int | None:
        """PGCLONE_MAX_DISK_BYTES: what a database and its copies may take on the disk of the server
        while a restore is made; without a limit by default."""
        most: int | None = _number("MAX_DISK_BYTES", None, least=1, unit="bytes")
        return most

    @property
    def s3_config(self) -> Mapping[str, Any]:
        """PGCLONE_S3_CONFIG: credentials and region for ``s3://`` locations, under their AWS_*
        names; options of django-storages' ``S3Storage`` are taken too."""
        return _mapping("S3_CONFIG")

    @property
    def s3_endpoint_url(self) -> str | None:
        """PGCLONE_S3_ENDPOINT_URL: the server of ``s3://`` locations when it is not Amazon's."""
        value = _get("S3_ENDPOINT_URL", None, str)
        return None if value is None else str(value)

    @property
    def validate_dump_keys(self) -> bool:
        """PGCLONE_VALIDATE_DUMP_KEYS: whether only files with a standard key count as dumps."""
        return bool(_get("VALIDATE_DUMP_KEYS", True, bool))

    @property
    def compression(self) -> Codec:
        """PGCLONE_COMPRESSION: ``zstd[:1-19]`` (default), ``gzip[:1-9]`` or ``none``."""
        return parse_codec(str(_get("COMPRESSION", "zstd", str)))

    @property
    def jobs(self) -> int:
        """PGCLONE_JOBS: sessions with which a restore loads data and builds indexes at the same
        time; the number of processors by default, two at least and four at most."""
        usual = max(2, min(os.cpu_count() or 2, 4))
        return int(_number("JOBS", usual, least=1, unit="sessions"))

    @property
    def tolerated_errors(self) -> frozenset[tuple[str, str]]:
        """PGCLONE_TOLERATED_ERRORS: errors that do not fail a restore, none by default.

        Each is the kind of an entry, as ``pg_restore --list`` calls it, and the SQLSTATE of its
        error: ``"EXTENSION 42501"``.
        """
        pairs = set()
        for text in as_list(_get("TOLERATED_ERRORS", [], list, tuple), "PGCLONE_TOLERATED_ERRORS"):
            kind, _space, code = text.rpartition(" ")
            if not kind or not _SQLSTATE.fullmatch(code):
                raise ConfigurationError(
                    f"PGCLONE_TOLERATED_ERRORS cannot hold {text!r}",
                    hint='It holds kinds of entries with a SQLSTATE, such as "EXTENSION 42501".',
                )
            pairs.add((kind, code))
        return frozenset(pairs)

    @property
    def bin_dirs(self) -> list[str]:
        """PGCLONE_BIN_DIR: directory, or directories, of pg_dump and pg_restore.

        Without it PATH and the usual directories of the system are looked through.
        """
        value = _get("BIN_DIR", [], str, os.PathLike, list, tuple)
        values = [value] if isinstance(value, str | os.PathLike) else value
        if not all(isinstance(directory, str | os.PathLike) for directory in values):
            raise ConfigurationError("PGCLONE_BIN_DIR has to be a directory or a list of them")
        return [str(base_dir() / directory) for directory in values if directory]


_SQLSTATE = re.compile(r"[0-9A-Z]{5}")

settings = Settings()

HIGHEST_LEVELS = {"zstd": 19, "gzip": 9, "none": None}


def parse_codec(text: str) -> Codec:
    name, colon, level = text.partition(":")
    highest = HIGHEST_LEVELS.get(name)
    if name in HIGHEST_LEVELS and not colon:
        return Codec(name)
    if highest and level.isascii() and level.isdecimal() and 1 <= int(level) <= highest:
        return Codec(name, int(level))
    raise ConfigurationError(
        f"PGCLONE_COMPRESSION cannot be {text!r}",
        hint="It is zstd, gzip or none; a level follows a colon: zstd:1 to 19, gzip:1 to 9.",
    )


def as_list(value: Any, where: str) -> list[str]:
    """A list of strings; one string alone counts as a list of one, as in 1.x."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    raise ConfigurationError(f"{where} has to be a list of strings")


def as_hooks(value: Any, where: str) -> list[HookSpec]:
    """A list of hooks; one alone counts as a list of one, as in 1.x."""
    if isinstance(value, str | Mapping):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(each, str | Mapping) for each in value):
        return list(value)
    raise ConfigurationError(
        f"{where} has to be a list of hooks",
        hint='For example: ["migrate", {"file": "hooks/views.sql"}].',
    )


def _get(name: str, default: Any, *kinds: type) -> Any:
    value = getattr(django_settings, f"PGCLONE_{name}", None)
    if value is None:
        return default
    # A bool counts as an int in Python, and is no number.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigurationError(f"PGCLONE_{name} has to be of type {expected}")
    return value


def _mapping(name: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] = _get(name, {}, Mapping)
    return value


def _number(
    name: str,
    default: Any,
    *,
    least: int,
    unit: str,
    most: int | None = None,
    kinds: tuple[type, ...] = (int,),
) -> Any:
    """A number in these bounds, or the default as it is."""
    value = _get(name, default, *kinds)
    if value is not None and (value < least or (most is not None and value > most)):
        bounds = f", {least} or more" if most is None else f" from {least} to {most}"
        raise ConfigurationError(f"PGCLONE_{name} has to be a number of {unit}{bounds}")
    return value


def _milliseconds(name: str) -> int | None:
    value: int | None = _number(name, None, least=0, unit="milliseconds")
    return value


def _hooks(name: str, default: list[HookSpec]) -> list[HookSpec]:
    for candidate in (name, VERSION_1_HOOK_SETTINGS.get(name, name)):
        value = getattr(django_settings, candidate, None)
        if value is not None:
            return as_hooks(value, candidate)
    return default
