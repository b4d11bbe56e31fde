from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from tests.project.people.models import Note


class Command(BaseCommand):
    help = "Writes a note: the text and the name of the database it was written to."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--text", default="good hook")

    def handle(self, *args: Any, **options: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_database()")
            where = cursor.fetchone()[0]
        Note.objects.create(text=f"{options['text']} in {where}")
        self.stdout.write(f"good hook ran in {where}")
