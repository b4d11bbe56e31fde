"""The ways in which a hook can make a connection of its own through Django."""

from __future__ import annotations

from django.conf import settings
from django.db import connections
from django.db.utils import ConnectionHandler


def created(alias):
    return connections.create_connection(alias)


def copied(alias):
    return connections[alias].copy()


def looked_up_anew(alias):
    connections[alias].close()
    del connections[alias]
    return connections[alias]


def by_the_settings_of_django(alias):
    return ConnectionHandler(dict(connections.settings))[alias]


def by_the_settings_of_the_project(alias):
    return ConnectionHandler(dict(settings.DATABASES))[alias]


def by_the_settings_of_the_connection(alias):
    return ConnectionHandler({"default": {}, "own": connections[alias].settings_dict})["own"]


WAYS = [
    created,
    copied,
    looked_up_anew,
    by_the_settings_of_django,
    by_the_settings_of_the_project,
    by_the_settings_of_the_connection,
]
