from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tests.project.people.models import Note, Person


class Command(BaseCommand):
    help = "Changes rows and then fails."

    def handle(self, *args: Any, **options: Any) -> None:
        Note.objects.create(text="failing hook")
        Person.objects.all().delete()
        raise CommandError("this hook always fails")
