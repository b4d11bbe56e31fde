"""Measures dumps and restores against other tools; started by scripts/benchmark."""
