from __future__ import annotations

from django.db import models


class Person(models.Model):
    name = models.CharField(max_length=100)
    born = models.DateField(null=True, blank=True)
    about = models.JSONField(default=dict)
    # Since migration 0002; a default of the database too, so that tests can insert by SQL.
    nickname = models.CharField(max_length=100, default="", db_default="")

    def __str__(self) -> str:
        return self.name


class Note(models.Model):
    """Hooks write here: its table never changes."""

    person = models.ForeignKey(Person, null=True, on_delete=models.CASCADE)
    text = models.TextField()

    class Meta:
        db_table = "MyTable"

    def __str__(self) -> str:
        return self.text


class Secret(models.Model):
    """Tests exclude it from dumps, and then look for its rows in them."""

    value = models.TextField()

    class Meta:
        db_table = "my.tab ü"

    def __str__(self) -> str:
        return f"secret {self.pk}"
