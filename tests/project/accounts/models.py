from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class Account(AbstractBaseUser):
    """Known by an address, in a table and columns with names that have to be quoted."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, db_column="Account Id")
    address = models.EmailField(unique=True, db_column="e-mail")

    objects = BaseUserManager()

    USERNAME_FIELD = "address"

    class Meta:
        db_table = "the Accounts"

    def __str__(self) -> str:
        return self.address


class Customer(Account):
    """Has its number and its name from another table."""

    since = models.DateField(null=True)
