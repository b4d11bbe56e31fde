"""A Django project that tests run as real processes: ``python tests/project/manage.py ...``."""
