"""Prints the highest memory use, in kB, of this process: idle, or after one command.

``probe.py idle`` has Django set up with every application, a connection to the database that
was used, and an S3 client that sent a request. ``probe.py COMMAND ...`` runs a management
command in the same state, so that the difference is what the command itself needs.
"""

import os
import re
import sys
from pathlib import Path

import django
from django.core.management import call_command
from django.db import connection


def highest_memory() -> int:
    """VmHWM, the high-water mark of the resident set, in kB."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match.group(1))


def load() -> None:
    """What a worker of a site has loaded and used before any dump."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    django.setup()
    from django.conf import settings  # noqa: PLC0415 - not before setup
    from storages.backends.s3 import S3Storage  # noqa: PLC0415

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
    config = settings.PGCLONE_S3_CONFIG
    storage = S3Storage(
        bucket_name=settings.PGCLONE_STORAGE_LOCATION.removeprefix("s3://").split("/")[0],
        access_key=config["AWS_ACCESS_KEY_ID"],
        secret_key=config["AWS_SECRET_ACCESS_KEY"],
        region_name=config["AWS_DEFAULT_REGION"],
        endpoint_url=settings.PGCLONE_S3_ENDPOINT_URL,
    )
    storage.exists("nothing")


if __name__ == "__main__":
    load()
    before = highest_memory()
    arguments = sys.argv[1:]
    if arguments != ["idle"]:
        call_command(*arguments)
    print(f"memory {before} {highest_memory()}", file=sys.stderr)
