"""Settings of the project that is measured, from the JSON file that BENCHMARK_SETTINGS names.

It is imported in two environments: one holds this repository, the other the peers.
"""

import json
import os
from pathlib import Path
from typing import Any

_given: dict[str, Any] = json.loads(Path(os.environ["BENCHMARK_SETTINGS"]).read_text("utf-8"))

SECRET_KEY = "benchmark"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", *_given["apps"]]
DATABASES: Any = {"default": {"ENGINE": "django.db.backends.postgresql", **_given["database"]}}
if "pgclone_admin" in INSTALLED_APPS:
    from pgclone_admin.routing import configure

    DATABASES = configure(DATABASES)

globals().update(_given["settings"])
