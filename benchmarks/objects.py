"""Databases with very many objects: what costs time and memory there is the table of contents."""

from __future__ import annotations

from dataclasses import dataclass

from .servers import BenchmarkServer

TABLES = 20_000
LARGE_OBJECTS = 200_000

BATCH = 500
"""Tables that are made in one transaction, as each takes locks until its end."""


@dataclass(frozen=True)
class Many:
    """A database of many objects of one kind."""

    name: str
    what: str
    count: int

    def build(self, server: BenchmarkServer) -> None:
        server.create_empty(self.name)
        if self.what == "tables":
            ranges = range(0, self.count, BATCH)
            statements = [_make_tables(n, min(n + BATCH, self.count)) for n in ranges]
        else:
            made = "lo_from_bytea(0, decode(md5(i::text), 'hex'))"
            statements = [f"SELECT count({made}) FROM generate_series(1, {self.count}) AS i"]
        server.run(*statements, dbname=self.name)


@dataclass(frozen=True)
class Facts:
    """What a copy of such a database has to have in common with it."""

    relations: int
    constraints: int
    filled_tables: int
    large_objects: int
    large_bytes: int


def of_scale(scale: float) -> list[Many]:
    return [
        Many("many_tables", "tables", max(1, round(TABLES * scale))),
        Many("many_large_objects", "large objects", max(1, round(LARGE_OBJECTS * scale))),
    ]


def facts(server: BenchmarkServer, name: str) -> Facts:
    # The contents of large objects are for superusers alone.
    (row,) = server.run(
        """
        SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
               (SELECT count(*) FROM pg_constraint),
               (SELECT count(*) FROM pg_class
                 WHERE relname LIKE 'many%' AND relkind = 'r' AND pg_relation_size(oid) > 0),
               (SELECT count(*) FROM pg_largeobject_metadata),
               (SELECT coalesce(sum(length(data)), 0) FROM pg_largeobject)
        """,
        dbname=name,
        user="postgres",
    )
    return Facts(*(int(value) for value in row))


def _make_tables(first: int, end: int) -> str:
    return f"""
        DO $$ BEGIN
            FOR i IN {first} .. {end - 1} LOOP
                EXECUTE format('CREATE TABLE many_%s (id bigint PRIMARY KEY, name text)', i);
                EXECUTE format('INSERT INTO many_%s VALUES (%s, md5(%L))', i, i, i);
            END LOOP;
        END $$
    """
