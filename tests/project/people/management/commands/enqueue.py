from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django_q.tasks import async_task


class Command(BaseCommand):
    help = 'Puts tasks into the queue; each is a list as JSON: ["note", "its name", ...].'

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tasks", nargs="+", type=json.loads, metavar="TASK")

    def handle(self, *args: Any, **options: Any) -> None:
        for function, name, *arguments in options["tasks"]:
            path = f"tests.project.people.tasks.{function}"
            async_task(path, name, *arguments, task_name=name)
