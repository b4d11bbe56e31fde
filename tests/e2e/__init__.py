"""Whole commands, as users run them."""
