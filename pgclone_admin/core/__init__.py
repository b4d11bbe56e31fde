"""Moves one Postgres database: dump, restore, copy and swap, without Django.

Imports the standard library, psycopg2 and zstandard, nothing else.
"""
