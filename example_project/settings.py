"""Settings of the example shop."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from example_project import database_url, embedded
from pgclone_admin.routing import configure

BASE_DIR = Path(__file__).resolve().parent
REPOSITORY = BASE_DIR.parent

DEBUG = os.environ.get("DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("SECRET_KEY", "")
if not SECRET_KEY:
    if not DEBUG:
        raise ImproperlyConfigured("SECRET_KEY must be set when DEBUG is off")
    SECRET_KEY = "for-development-only-and-known-to-everyone"  # noqa: S105 - it says so itself
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_q",
    "pgclone_admin",
    "example_project.shop",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # An editable install leaves this folder, and that of the static files, beside the package;
        # a wheel carries them inside.
        "DIRS": [REPOSITORY / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"
STATICFILES_DIRS = [REPOSITORY / "static"]

DATABASES = configure(
    {"default": database_url.parse(os.environ.get("DATABASE_URL") or embedded.url(embedded.home()))}
)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"

Q_CLUSTER = {
    "name": "shop",
    "orm": "default",
    "workers": 2,
    # A restore that is delivered twice must not run twice: one attempt, and a new delivery only
    # after the longest run is surely over.
    "timeout": 4 * 60 * 60,
    "retry": 5 * 60 * 60,
    "max_attempts": 1,
    "ack_failures": True,
}

PGCLONE_STORAGE_LOCATION = os.environ.get("PGCLONE_STORAGE_LOCATION", ".pgclone/")
PGCLONE_BIN_DIR = os.environ.get("PGCLONE_BIN_DIR", "").split(os.pathsep)
PGCLONE_CONFIGS = {
    # What a developer takes home: no search history, no real customer.
    "anonymous": {
        "exclude": ["shop.SearchLog"],
        "pre_dump_hooks": ["close_abandoned_carts"],
        "pre_swap_hooks": [
            "migrate",
            {
                "name": "anonymize",
                "anonymize": {
                    "shop.Customer": {
                        "first_name": "first_name",
                        "last_name": "last_name",
                        "email": "email",
                        "phone": "phone",
                    },
                    "auth.User": {
                        "username": "keep",
                        "first_name": "first_name",
                        "last_name": "last_name",
                        "email": "email",
                        "password": "keep",
                    },
                },
                "seed": os.environ.get("ANONYMIZE_SEED", "bicycles"),
            },
        ],
        "post_swap_hooks": ["clear_caches"],
        "require_anonymized": True,
        "reversible": True,
    },
}

RDS_OWNER = "rds_superuser"
"""Who gets what PostGIS made, where the hook rds_prep_hook runs."""
