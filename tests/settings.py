"""Django settings for tests in this process.

``default`` points at a port where nothing listens: a test that needs a database asks for one
with the fixture ``use_database`` (or runs the project of ``tests/project`` as a process).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parents[1]
SECRET_KEY = "not a secret: tests only"
USE_TZ = True
TIME_ZONE = "UTC"
ALLOWED_HOSTS = ["testserver"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "tests.project.people",
    "pgclone_admin",
]
MIDDLEWARE: list[str] = []
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": "1",
        "USER": "app",
        "PASSWORD": "",
        "NAME": "placeholder",
        "OPTIONS": {"connect_timeout": 2},
    },
}
