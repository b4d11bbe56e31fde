"""A small app with awkward table names and a migration that old dumps do not have."""
