from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection


class Command(BaseCommand):
    help = "Does not end; --query: it waits in the server; --catch: a signal is an error."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seconds", type=float, default=600)
        parser.add_argument("--query", action="store_true")
        parser.add_argument("--catch", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["query"]:
            connection.ensure_connection()
        # The mark a test waits for before it sends its signal.
        (Path(settings.BASE_DIR) / "hook-hangs").touch()
        if options["query"]:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(%s)", [options["seconds"]])
            return
        try:
            time.sleep(options["seconds"])
        except KeyboardInterrupt as interrupt:
            if not options["catch"]:
                raise
            raise CommandError("it did not end well") from interrupt
