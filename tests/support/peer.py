"""The real django-pgclone, in an environment of its own, on the database of a test's project."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import ROOT
from .django_project import Completed, Project

ENVIRONMENT = ROOT / ".venv-peer"
REQUIREMENTS = "tests/peer-requirements.txt"


@functools.cache
def peer_python() -> Path:
    """The interpreter beside which django-pgclone is installed; made when it is first needed."""
    subprocess.run(
        [
            "bash",
            "-euc",
            f"source scripts/environment.sh; prepare_peers {ENVIRONMENT.name} {REQUIREMENTS}",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
        timeout=600,
    )
    return ENVIRONMENT / "bin" / "python"


def peer_package() -> Path:
    """The installed source of django-pgclone."""
    (folder,) = peer_python().parent.parent.glob("lib/python*/site-packages/pgclone")
    return folder


class Peer:
    """The commands of django-pgclone for a project: the same models, database and dumps."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def pgclone(self, *args: str, **options: Any) -> Completed:
        """``manage.py pgclone ...`` where ``pgclone`` is installed and ``pgclone_admin`` is not."""
        env = {
            "PATH": f"{self._project.server.bin_dir}:/usr/bin:/bin",
            # It asks this shell to notice a failing pg_dump in a pipe.
            "SHELL": shutil.which("bash"),
        }
        return self._project.manage(
            "pgclone",
            *args,
            python=peer_python(),
            env=env,
            without_app=True,
            apps=["pgclone"],
            **options,
        )

    def dump(self, *args: str, **options: Any) -> str:
        """The key of a new dump. It tells it in a sentence only, so what is new is looked for."""
        before = set(self._project.files())
        self.pgclone("dump", *args, **options).ok()
        (key,) = set(self._project.files()) - before
        return key
