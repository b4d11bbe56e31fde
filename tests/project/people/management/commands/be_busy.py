from __future__ import annotations

import collections
import json
import logging
import threading
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import Error, close_old_connections, connection

from pgclone_admin import reconnecting
from tests.project.people.models import Person


class Command(BaseCommand):
    help = "Requests without a pause until a file is there; prints what came of them as JSON."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("until", type=Path)
        parser.add_argument("--threads", type=int, default=12)

    def handle(self, *args: Any, **options: Any) -> None:
        requests: collections.Counter[str] = collections.Counter()
        connecting: list[str] = []
        counting = threading.Lock()

        class Counted(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                with counting:
                    requests["tried again"] += "connecting again" in record.getMessage()

        tells = logging.getLogger(reconnecting.__name__)
        tells.setLevel(logging.INFO)
        tells.addHandler(Counted())

        def request() -> str:
            close_old_connections()
            try:
                connection.ensure_connection()
            except Error as error:
                connecting.append(f"{type(error).__name__}: {error}")
                return "not connected"
            try:
                Person.objects.exists()
            except Error:  # the session was ended: no request that has not begun a query
                return "ended"
            finally:
                connection.close()
            return "answered"

        def run() -> None:
            while not options["until"].exists():
                outcome = request()
                with counting:
                    requests[outcome] += 1

        threads = [threading.Thread(target=run) for _ in range(options["threads"])]
        for thread in threads:
            thread.start()
        self.stderr.write("busy")
        for thread in threads:
            thread.join()
        self.stdout.write(json.dumps({**requests, "errors": connecting}))
