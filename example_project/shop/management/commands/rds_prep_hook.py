from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

SCHEMAS = ("tiger", "topology")

# Tables with or without partitions, views, materialized views and sequences. The sequence of a
# column has the owner of its table and follows it. ALTER TABLE changes the owner of all of them.
STATEMENTS = """
    SELECT format('ALTER TABLE %%I.%%I OWNER TO %%I', n.nspname, c.relname, %(owner)s)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(%(schemas)s)
      AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
      AND pg_get_userbyid(c.relowner) <> %(owner)s
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND c.relkind = 'S' AND d.deptype IN ('a', 'i'))
    ORDER BY n.nspname, c.relname
"""


class Command(BaseCommand):
    help = (
        f"Hands all that PostGIS keeps in the schemas {' and '.join(SCHEMAS)} to one role. On "
        "Amazon RDS, where it belongs to a role that nobody can be, pg_dump cannot read it "
        "otherwise. As a pre-dump hook it does nothing where these schemas do not exist, or where "
        "it has been done before."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--owner",
            default=settings.RDS_OWNER,
            help=f"the role that becomes the owner (default: {settings.RDS_OWNER})",
        )

    def handle(self, *args: Any, owner: str, **options: Any) -> None:
        # All of it or nothing: one that cannot be handed over would make the dump fail anyway.
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(STATEMENTS, {"owner": owner, "schemas": list(SCHEMAS)})
            statements = [statement for (statement,) in cursor.fetchall()]
            if statements:
                cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [owner])
                if not cursor.rowcount:
                    raise CommandError(f'there is no role "{owner}" to hand anything to')
            for statement in statements:
                cursor.execute(statement)
        self.stdout.write(f"{len(statements)} relations handed to {owner}")
