"""The flags of ``manage.py pgclone``: those of django-pgclone, and some more."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from ..hooks.spec import FILE_ENDINGS
from ..options import HOOK_LISTS, Arguments, declared_hooks
from ..services.recovery import DEFAULT_AGE

MOST_HOURS = 24 * 36_500


def _add_ls(parser: CommandParser) -> None:
    parser.add_argument(
        "dump_key", nargs="?", metavar="PREFIX", help="whole first parts of keys, or a database"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--instances", action="store_true", help="list instances only")
    what.add_argument("--databases", action="store_true", help="list databases only")
    what.add_argument(
        "--only-db-names", action="store_true", dest="databases", help="the same, as 1.x had it"
    )
    what.add_argument("--configs", action="store_true", help="list configurations only")
    what.add_argument("--local", action="store_true", help="list local copies")
    parser.add_argument("--long", action="store_true", help="add size, age, and manifest or source")
    _add_common(parser, "the database whose local copies are listed")


def _add_dump(parser: CommandParser) -> None:
    parser.add_argument(
        "-e",
        "--exclude",
        "--exclude-model",
        nargs="*",
        action="extend",
        metavar="MODEL",
        help="models (app.Model) whose rows are left out",
    )
    parser.add_argument(
        "--pre-dump-hook",
        nargs="*",
        action="extend",
        dest="pre_dump_hooks",
        metavar="HOOK",
        help="hooks to run on the live database before; without a value none",
    )
    _add_hook_params(parser)
    _add_instance(parser)
    _add_common(parser, "the database to dump", also=["--dump-config"])


def _add_restore(parser: CommandParser) -> None:
    parser.add_argument(
        "dump_key",
        nargs="?",
        metavar="KEY",
        help="a key, the first parts of keys, a database, or a local copy (:pre, :post, :undo, "
        ":name); a name means its newest dump",
    )
    parser.add_argument(
        "--pre-swap-hook",
        nargs="*",
        action="extend",
        dest="pre_swap_hooks",
        metavar="HOOK",
        help="hooks to run on the temporary database; without a value none",
    )
    _add_post_swap_hooks(parser)
    _add_hook_params(parser)
    _add_reversible(parser)
    parser.add_argument(
        "--to", metavar=":NAME", help="keep the result beside the live database, replace nothing"
    )
    parser.add_argument(
        "--hold",
        action="store_true",
        help='stop before the swap and keep the result for "pgclone swap"',
    )
    _add_ignore_standbys(parser)
    _add_lose_settings(parser)
    parser.add_argument(
        "--plan",
        action="store_true",
        help="say what would be done and what stands in its way, and do nothing",
    )
    parser.add_argument(
        "--trust", action="store_true", help="restore a foreign dump although you are a superuser"
    )
    _add_common(parser, "the database to restore to", also=["--restore-config"])


def _add_post_swap_hooks(parser: CommandParser) -> None:
    parser.add_argument(
        "--post-swap-hook",
        nargs="*",
        action="extend",
        dest="post_swap_hooks",
        metavar="HOOK",
        help="hooks to run on the live database after the swap; without a value none",
    )


def _add_hook_params(parser: CommandParser) -> None:
    parser.add_argument(
        "--hook-param",
        nargs=2,
        action="append",
        dest="hook_params",
        metavar=("NAME", "VALUE"),
        help="the value of a parameter that a hook declares",
    )


def _add_swap(parser: CommandParser) -> None:
    _add_post_swap_hooks(parser)
    _add_hook_params(parser)
    _add_reversible(parser)
    _add_ignore_standbys(parser)
    _add_lose_settings(parser)
    _add_common(parser, "the database to replace", storage=False)


def _add_reversible(parser: CommandParser) -> None:
    parser.add_argument(
        "-r",
        "--reversible",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep the database as it was (:pre) and as it was restored (:post)",
    )


def _add_ignore_standbys(parser: CommandParser) -> None:
    parser.add_argument(
        "--ignore-standbys",
        action="store_true",
        help="accept that sessions on standbys go on reading what is replaced",
    )


def _add_lose_settings(parser: CommandParser) -> None:
    parser.add_argument(
        "--lose-settings",
        nargs="*",
        action="extend",
        metavar="NAME",
        help="accept that these settings and grants of the database are lost, if they cannot be "
        "carried over; without a value none",
    )


def _add_copy(parser: CommandParser) -> None:
    parser.add_argument("dump_key", metavar=":NAME", help="the local copy to make")
    parser.add_argument(
        "--end-sessions",
        action="store_true",
        help="end all sessions and let the server copy; clients that connect wait",
    )
    _add_lose_settings(parser)
    _add_common(parser, "the database to copy", storage=False)


def _add_cat(parser: CommandParser) -> None:
    parser.add_argument("dump_key", metavar="KEY", help="the dump whose archive is written")
    _add_common(parser, "", database=False)


def _add_import(parser: CommandParser) -> None:
    parser.add_argument("file", metavar="FILE", help="an archive of pg_dump --format=custom")
    _add_instance(parser)
    _add_common(parser, "the database it is a dump of")


def _add_recover(parser: CommandParser) -> None:
    parser.add_argument(
        "--older-than",
        type=_hours,
        default=DEFAULT_AGE,
        metavar="HOURS",
        help="the age from which partial files and open uploads are left over; default 24",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )
    _add_common(parser, "the database whose restores are cleaned up after")


def _hours(text: str) -> timedelta:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours <= MOST_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours")
    return timedelta(hours=hours)


def _add_refresh(parser: CommandParser) -> None:
    _add_common(parser, "", database=False)
    _add_json(parser)


def _add_doctor(parser: CommandParser) -> None:
    _add_common(parser, "the database that is looked at")


def _add_instance(parser: CommandParser) -> None:
    parser.add_argument("-i", "--instance", help="the instance in the dump key")


def _add_common(
    parser: CommandParser,
    database_help: str,
    *,
    database: bool = True,
    storage: bool = True,
    also: Sequence[str] = (),
) -> None:
    """``also`` are other names of ``--config``, as 1.x had them."""
    if database:
        parser.add_argument("-d", "--database", metavar="ALIAS", help=database_help)
    if storage:
        parser.add_argument(
            "-s", "--storage-location", metavar="LOCATION", help="the storage location to use"
        )
    parser.add_argument(
        "-c", "--config", *also, dest="config", help="the configuration to take options from"
    )
    if database:
        _add_json(parser)


def _add_json(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_django_options(parser: CommandParser) -> None:
    """Django's own options, which it knows only before the verb, after it too."""
    for name in ("--settings", "--pythonpath"):
        parser.add_argument(name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "-v",
        "--verbosity",
        type=int,
        choices=range(4),
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    for name in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(
            name, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


VERBS = (
    ("ls", "List dumps, newest first.", _add_ls),
    ("dump", "Dump a database into its storage location.", _add_dump),
    ("restore", "Restore a database from a dump or a local copy.", _add_restore),
    ("swap", "Put the restore in place that --hold has made.", _add_swap),
    ("copy", "Make a local copy of a database.", _add_copy),
    ("cat", "Write the archive in a dump to stdout, for pg_restore.", _add_cat),
    ("import", "Take an archive that was made elsewhere in as a dump.", _add_import),
    ("refresh", "Bring the list of dumps in the admin in line with what is stored.", _add_refresh),
    ("recover", "Clean up after dumps and restores whose process died.", _add_recover),
    ("doctor", "Look at all that dumps and restores need, and say what to mend.", _add_doctor),
)


def given_arguments(given: dict[str, Any]) -> Arguments:
    known = {field.name for field in dataclasses.fields(Arguments)}
    arguments = {name: value for name, value in given.items() if name in known}
    if arguments.get("hook_params"):
        arguments["hook_params"] = dict(arguments["hook_params"])
    return Arguments(**arguments)


def take_key_from_values(given: dict[str, Any]) -> None:
    """``--pre-swap-hook migrate KEY``: a last value that has the shape of a key is the key, unless
    it is the name of a declared hook."""
    for option in ("pre_swap_hooks", "post_swap_hooks", "lose_settings"):
        values = given[option]
        if not given["dump_key"] and values and _is_key(values[-1], option):
            given["dump_key"] = values.pop()


def _is_key(text: str, option: str) -> bool:
    is_hook = text.endswith(FILE_ENDINGS) or text.lstrip().startswith("{")
    is_key = text.startswith(":") or ("/" in text and not is_hook)
    return is_key and not (option in HOOK_LISTS and text in declared_hooks(option).hooks)
