from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper


class LargeObjectField(models.BigIntegerField):
    """The number of a PostgreSQL large object; its bytes lie outside the table."""

    def db_type(self, connection: BaseDatabaseWrapper) -> str:
        return "oid"
