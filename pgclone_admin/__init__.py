"""Dumps and restores of the Postgres databases of a Django site."""

__version__ = "0.1.0"
