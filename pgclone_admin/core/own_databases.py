"""Makes, names and drops databases: only those that carry a mark of ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2 import sql

from .errors import DatabaseProtected, PgcloneError
from .marks import (
    NEW_DATABASE_NAME,
    NEW_DATABASE_PREFIX,
    Database,
    Mark,
    new_database_name,
    option,
    options_like,
    set_comment,
)
from .names import check_database_name
from .refusals import explained
from .server import Server
from .sessions import end_sessions


def create_like(server: Server, model: Database, mark: Mark) -> Database:
    """A new, empty, marked database with owner, encoding and locale of ``model``.

    It is made under a name of its own, and only gets the mark's name together with the mark,
    in one transaction: nothing under that name is ever unmarked.
    """
    name = new_database_name()
    _create(server, name, "template0", options_like(model))
    return mark_and_rename(server, name, mark)


def clone(
    server: Server, source: Database, mark: Mark, *, replaces: Collection[str] | None = None
) -> Database:
    """A marked copy of a database that nobody is connected to; ``replaces`` as in
    :func:`mark_and_rename`.

    Connections to ``source`` wait meanwhile. :class:`TooBusy` when a session does not leave
    within the five seconds that the server waits.
    """
    name = new_database_name()
    options = [option("OWNER", sql.Identifier(source.owner))]
    if server.major >= 15:
        options.append(option("STRATEGY", sql.SQL("FILE_COPY")))
    _create(server, name, source.name, options)
    return mark_and_rename(server, name, mark, replaces=replaces)


def _create(server: Server, name: str, template: str, options: list[sql.Composable]) -> None:
    command = sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(
        sql.Identifier(name), sql.Identifier(template), sql.SQL(" ").join(options)
    )
    try:
        server.execute(command)
    except psycopg2.Error as error:
        raise explained(error, "the database could not be created") from error
    except BaseException:
        # A signal that came while the server was at work is only heard when it is done.
        _drop_new(server, name)
        raise


def mark_and_rename(
    server: Server, name: str, mark: Mark, *, replaces: Collection[str] | None = None
) -> Database:
    """Marks the database ``name`` and gives it the mark's name, in one transaction.

    An older database of that name is dropped before, if it was made for the same live one and
    is of one of the kinds ``replaces``; any other is left alone, and it is
    :class:`DatabaseProtected`. Looked at here, too: a run takes hours, and a name that was free
    when it began may have been taken since, by another site on the same server.
    """
    try:
        check_database_name(mark.name)
        drop_older(server, mark.name, live=mark.of, kinds=replaces)
        with server.transaction() as cursor:
            if name != mark.name:
                cursor.execute(
                    sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                        sql.Identifier(name), sql.Identifier(mark.name)
                    )
                )
            set_comment(cursor, mark.name, mark.comment())
    except BaseException:
        if name.startswith(NEW_DATABASE_PREFIX):
            _drop_new(server, name)
        raise
    return server.existing(mark.name)


def _drop_new(server: Server, name: str) -> None:
    """Drops what this process has created under a name that nobody else can have."""
    server.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def drop_abandoned(server: Server, database: Database) -> None:
    """Drops a database under a name of :func:`new_database_name`, if nobody is connected.

    For one whose maker has died before it was marked.
    """
    if not NEW_DATABASE_NAME.fullmatch(database.name):
        raise DatabaseProtected(f'the database "{database.name}" is left alone')
    try:
        server.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(database.name)))
    except psycopg2.Error as error:
        what = f'the database "{database.name}" could not be dropped'
        raise explained(error, what) from error


def drop_marked(server: Server, name: str, *, missing_ok: bool = False) -> None:
    """Drops a marked database, whoever is connected to it.

    :class:`DatabaseProtected` when it carries no mark of ours; it is left alone then.
    """
    if missing_ok and server.database(name) is None:
        return
    database = server.existing(name)
    require_mark(database)
    quoted = sql.Identifier(name)
    try:
        try:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))
        except psycopg2.errors.InsufficientPrivilege as refused_by_force:
            # Autovacuum counts as a superuser, whom FORCE may not end; a plain DROP may.
            end_sessions(server, database.oid)
            try:
                server.execute(sql.SQL("DROP DATABASE {}").format(quoted))
            except psycopg2.errors.ObjectInUse:
                raise refused_by_force from None
    except psycopg2.Error as error:
        raise explained(error, f'the database "{name}" could not be dropped') from error


@contextmanager
def dropped_on_error(server: Server, database: Database) -> Iterator[None]:
    """Drops the database after any error in the block, as :func:`clean_up` does it."""
    try:
        yield
    except BaseException as error:
        clean_up(server, database, error, drop_marked)
        raise


def clean_up(
    server: Server,
    database: Database,
    error: BaseException,
    action: Callable[[Server, str], object],
) -> None:
    """Does ``action`` with the database after ``error``, if it is still there under its name.

    Over a new connection: the one that was used may be what has failed. What keeps it from being
    done is noted with ``error``, and not raised.
    """
    try:
        with Server.connected(server.params) as cleaning:
            present = cleaning.database(database.name)
            if present is not None and present.oid == database.oid:
                action(cleaning, database.name)
    except (PgcloneError, psycopg2.Error) as failed:
        error.add_note(f'the database "{database.name}" could not be cleaned up: {failed}')


def drop_older(
    server: Server, name: str, *, live: str, kinds: Collection[str] | None = None
) -> None:
    """Drops the database ``name``, if there is one, as :func:`check_replaceable` allows."""
    if check_replaceable(server, name, live=live, kinds=kinds):
        drop_marked(server, name)


def require_mark(database: Database) -> Mark:
    """The mark of the database; :class:`DatabaseProtected` when it has none."""
    if (mark := database.mark) is None:
        raise DatabaseProtected(
            f'the database "{database.name}" was not made by pgclone_admin and is left alone',
            hint="Rename or drop it yourself if it is not needed, then try again.",
        )
    return mark


def check_target(
    server: Server,
    name: str,
    protected: Collection[str],
    *,
    live: str,
    kinds: Collection[str] | None = None,
) -> None:
    """:class:`DatabaseProtected` unless ``name`` is one that may be used for a database of
    ``live``, and is free or may become so."""
    check_database_name(name)
    if name in protected:
        raise DatabaseProtected(
            f'the database "{name}" is named in the settings of this site and is left alone',
            hint="Choose another name.",
        )
    check_replaceable(server, name, live=live, kinds=kinds)


def check_replaceable(
    server: Server, name: str, *, live: str, kinds: Collection[str] | None = None
) -> bool:
    """Whether there is a database ``name``, which may be dropped then.

    :class:`DatabaseProtected` unless it was made for ``live`` and is of one of these ``kinds``:
    another site on the same server has marks like ours.
    """
    if (database := server.database(name)) is None:
        return False
    mark = require_mark(database)
    if mark.of != live:
        raise DatabaseProtected(
            f'the database "{name}" was made for the database "{mark.of}", not for "{live}", '
            "and is left alone",
            hint="Choose another name, or drop it where it belongs.",
        )
    if kinds is not None and mark.kind not in kinds:
        raise DatabaseProtected(
            f'there is a database "{name}" already, and it is left alone',
            hint="Choose another name, or drop it first.",
        )
    return True
