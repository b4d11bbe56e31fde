from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection


class Command(BaseCommand):
    help = "Says the password of its connection everywhere it can, and fails."

    def handle(self, *args: Any, **options: Any) -> None:
        password = connection.settings_dict["PASSWORD"]
        self.stdout.write(f"the password is {password}")
        sys.stderr.write(f"postgresql://app:{password}@127.0.0.1/db\n")
        raise CommandError(f"could not log in with password={password}")
