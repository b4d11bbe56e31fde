"""Tasks for a queue. Each writes down that it ran in a file, which no restore can change."""

from __future__ import annotations

import io
import time
from pathlib import Path

from django.conf import settings
from django.core.management import call_command

PATIENCE = 30.0


def _ran(name: str) -> None:
    with (Path(settings.BASE_DIR) / "runs").open("a") as file:
        file.write(f"{name} {time.time()}\n")


def note(name: str) -> str:
    _ran(name)
    return name


def wait(name: str, file: str) -> str:
    """Works until there is a file of this name."""
    _ran(name)
    until = time.monotonic() + PATIENCE
    while not (Path(settings.BASE_DIR) / file).exists() and time.monotonic() < until:
        time.sleep(0.05)
    return name


def pgclone(name: str, *arguments: str) -> str:
    """Runs the command and returns what it prints."""
    _ran(name)
    output = io.StringIO()
    call_command("pgclone", *arguments, stdout=output, stderr=io.StringIO())
    return output.getvalue().strip()
