"""Settings read from a JSON file, so that each test can have its own.

``PGCLONE_TEST_SETTINGS`` names the file. Its keys, all optional:

``databases``   the DATABASES mapping
``settings``    any further settings, such as PGCLONE_STORAGE_LOCATION
``plain``       true: DATABASES stays a plain mapping, without ``pgclone_admin.routing``
``without_app`` true: ``pgclone_admin`` is not installed at all (implies ``plain``)
``apps``        more entries for INSTALLED_APPS
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_file = os.environ.get("PGCLONE_TEST_SETTINGS", "")
_given: dict[str, Any] = json.loads(Path(_file).read_text("utf-8")) if _file else {}

BASE_DIR: Any = Path(_file).parent if _file else Path(__file__).parent
SECRET_KEY = "not a secret: tests only"
DEBUG = False
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "tests.project.people",
    *([] if _given.get("without_app") else ["pgclone_admin"]),
    *_given.get("apps", []),
]
DATABASES: Any = _given.get("databases", {})

globals().update(_given.get("settings", {}))
BASE_DIR = Path(BASE_DIR)

if not (_given.get("plain") or _given.get("without_app")):
    from pgclone_admin.routing import configure

    DATABASES = configure(DATABASES)
