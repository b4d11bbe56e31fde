from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser
from django.test import Client


class Command(BaseCommand):
    help = "Logs users in and prints their session keys, or tells who is logged in by which key."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME")
        parser.add_argument("--keys", nargs="*", default=[], metavar="KEY")

    def handle(self, *args: Any, **options: Any) -> None:
        made = {name: self._log_in(name) for name in options["names"]}
        known = {key: self._who(key) for key in options["keys"]}
        self.stdout.write(json.dumps({**made, **known}))

    def _log_in(self, name: str) -> str:
        users = get_user_model()
        user = users.objects.filter(**{users.USERNAME_FIELD: name}).first()
        if user is None:
            user = users(**{users.USERNAME_FIELD: name})
            user.set_password("the same for all")
            user.save()
        client = Client()
        client.force_login(user)
        return client.cookies[settings.SESSION_COOKIE_NAME].value

    def _who(self, key: str) -> str:
        client = Client()
        client.cookies[settings.SESSION_COOKIE_NAME] = key
        return client.get("/who/").content.decode()
