"""``manage.py clear_caches``: forgets what the site has cached, as a hook after a swap."""

from __future__ import annotations

from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.core.management.base import BaseCommand, CommandError, CommandParser


class Command(BaseCommand):
    help = "Clears the caches of CACHES: what was cached of a database that was replaced."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "aliases", nargs="*", metavar="ALIAS", help="caches to clear; all of them without one"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for alias in options["aliases"] or caches:
            try:
                caches[alias].clear()
            except InvalidCacheBackendError as error:
                raise CommandError(f'there is no cache "{alias}" in CACHES') from error
            self.stdout.write(f"cleared the cache {alias}")
