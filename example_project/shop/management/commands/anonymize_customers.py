from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection

FIRST_NAMES = ("Alex", "Charlie", "Frances", "Jamie", "Kim", "Morgan", "Robin", "Sasha")
LAST_NAMES = ("Birch", "Brook", "Field", "Heath", "Hill", "Marsh", "Moor", "Stone", "Wood")


class Command(BaseCommand):
    help = (
        "Gives every customer a made-up name, e-mail address and phone number, the same ones each "
        "time. It is meant as a pre-swap hook: run by hand, it changes the database the site uses."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            # ".invalid" is reserved: no mail sent by mistake can reach anyone.
            cursor.execute(
                """
                UPDATE shop_customer
                SET first_name = (%(first)s::text[])[1 + id %% cardinality(%(first)s::text[])],
                    last_name = (%(last)s::text[])[1 + id %% cardinality(%(last)s::text[])],
                    email = 'customer-' || id || '@example.invalid',
                    phone = CASE phone WHEN '' THEN ''
                                       ELSE '+1 555 01' || lpad((id %% 100)::text, 2, '0') END
                """,
                {"first": list(FIRST_NAMES), "last": list(LAST_NAMES)},
            )
            self.stdout.write(f"{cursor.rowcount} customers anonymised")
